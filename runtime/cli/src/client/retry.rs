//! Trying again while a node is away or full, for as long as `--retry-for` says and no longer.
//!
//! ```text
//!   call ─┬─ answered ─► done
//!         ├─ away, or full with a time to come back ─► pause (doubling) ─► call again, until the time is up
//!         └─ refused ─► the refusal
//! ```
//! Only for calls that may be repeated: those that carry deduplication keys or request ids.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use super::CONNECT_WAIT;
use crate::{
    errors::{NO_ANSWER, is_broken_line, is_no_node, is_out_of_time, root_cause},
    output::Output,
};

/// First pause before trying again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before trying again: a node that comes back is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Repeats `call` while the node is away or full, until `retry_for` has passed since the first attempt. A call
/// that has no answer by then is given up as well, but the first one gets time enough for a handshake.
///
/// # Errors
/// The node's refusal, or what kept the last attempt from being answered.
pub(super) async fn with_retry<T, F, Fut>(
    retry_for: Duration,
    out: Output,
    call: F,
) -> Result<T, Status>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let began = Instant::now();
    let (give_up, cut_off) = (began + retry_for, began + retry_for.max(CONNECT_WAIT));
    let mut pause = PAUSE_MIN;
    let mut last: Option<Status> = None;
    loop {
        let status = match timeout_at(cut_off, call()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(given_up(last, began)),
        };
        let Some(wait) = wait_after(&status, pause) else {
            return Err(status);
        };
        if last.is_none() {
            out.note(&format!("{}; trying again", root_cause(&status)));
        }
        let now = Instant::now();
        sleep(wait.min(give_up.saturating_duration_since(now))).await;
        if Instant::now() >= give_up {
            return Err(given_up(Some(status), began));
        }
        pause = (pause * 2).min(PAUSE_MAX);
        last = Some(status);
    }
}

/// What is said when the time is over: why the last attempt failed, or if none was answered, for how long all were not.
fn given_up(last: Option<Status>, began: Instant) -> Status {
    let waited = began.elapsed().as_millis();
    let silent = || Status::unavailable(format!("{NO_ANSWER} {waited} ms"));
    last.filter(|status| !is_out_of_time(status))
        .unwrap_or_else(silent)
}

/// How long to wait before another attempt: what the node asked for, or else `pause`. None when another attempt
/// would be refused too.
fn wait_after(status: &Status, pause: Duration) -> Option<Duration> {
    let told = status
        .get_details_retry_info()
        .and_then(|retry| retry.retry_delay);
    if status.code() == Code::ResourceExhausted {
        // Without a time to wait it is a limit on the request itself.
        return told;
    }
    let away = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || is_broken_line(status);
    let away = away && !is_no_node(status);
    away.then(|| told.unwrap_or(pause))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use tonic_types::ErrorDetails;

    use super::*;
    use crate::output::{Format, Notes};

    /// Runs `answer` (the number of the attempt ↦ what comes of it) and gives the result and the virtual time it took.
    async fn run(
        retry_for: Duration,
        answer: impl Fn(u32) -> Result<(), Status>,
    ) -> (Result<(), Status>, Duration, u32) {
        let attempts = Cell::new(0);
        let began = Instant::now();
        let result = with_retry(retry_for, Output::new(Format::Human, Notes::Hidden), || {
            attempts.set(attempts.get() + 1);
            let answer = answer(attempts.get()).map(Response::new);
            async move { answer }
        });
        (result.await, began.elapsed(), attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_away_is_tried_for_the_whole_time_and_no_longer() {
        let limit = Duration::from_secs(30);
        let (result, took, attempts) = run(limit, |_| Err(Status::unavailable("refused"))).await;
        assert_eq!(
            result.map_err(|status| status.code()),
            Err(Code::Unavailable)
        );
        assert_eq!(took, limit);
        assert!(attempts > 25, "{attempts} attempts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_back_is_noticed() {
        let back = |attempt| match attempt {
            0..5 => Err(Status::unavailable("refused")),
            _ => Ok(()),
        };
        let (result, took, attempts) = run(Duration::from_secs(30), back).await;
        result.expect("the fifth attempt is answered");
        assert_eq!((attempts, took), (5, Duration::from_millis(1_500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_port_is_given_up_when_the_time_is_over() {
        for (retry_for, limit) in [(3_000, 3_000), (10_000, 10_000), (1, 3_000)] {
            let began = Instant::now();
            let out = Output::new(Format::Human, Notes::Hidden);
            let call = pending::<Result<Response<()>, Status>>;
            let status = with_retry(Duration::from_millis(retry_for), out, call).await;
            let status = status.expect_err("nobody answers");
            assert_eq!(status.message(), format!("no answer within {limit} ms"));
            assert!(is_broken_line(&status), "{status:?}");
            assert_eq!(began.elapsed(), Duration::from_millis(limit));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_node_is_asked_again_when_it_says_so() {
        let full = |attempt| match attempt {
            1 => {
                let mut details = ErrorDetails::new();
                details.set_retry_info(Some(Duration::from_millis(250)));
                let code = Code::ResourceExhausted;
                Err(tonic::Status::with_error_details(code, "full", details))
            }
            _ => Ok(()),
        };
        let (result, took, _) = run(Duration::from_secs(30), full).await;
        result.expect("there is room again");
        assert_eq!(took, Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_tried_again() {
        for refusal in [
            Status::invalid_argument("no text"),
            Status::resource_exhausted("the message is too large"),
        ] {
            let (result, took, attempts) =
                run(Duration::from_secs(30), |_| Err(refusal.clone())).await;
            assert_eq!(result.map_err(|status| status.code()), Err(refusal.code()));
            assert_eq!((took, attempts), (Duration::ZERO, 1));
        }
    }
}
