//! Single keys from the terminal, and the line that is being written.
//!
//! ```text
//!   terminal ─► bytes ─► decoder ─► key
//!   SIGTERM, SIGHUP, SIGQUIT, SIGINT ─► Interrupt, as Ctrl-C
//! ```

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    io::{dup, ioctl_fionread, read},
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::{decoder::Decoder, session::Key};
use crate::{errors::Failure, output::clean};

/// How long a sequence may take to arrive: its bytes are sent at once, and nobody waits so short after Esc.
const SEQUENCE_WAIT: Duration = Duration::from_millis(100);
/// Bytes taken from the terminal at a time; people type fewer.
const READ_BYTES: usize = 256;
/// For a terminal that does not say how wide it is.
const WIDTH: u16 = 80;

/// The terminal with single keys: nothing is echoed, and a key needs no Enter. It is as it was when this is dropped.
#[derive(Debug)]
pub(super) struct Keys {
    terminal: AsyncFd<OwnedFd>,
    decoder: Decoder,
    bytes: VecDeque<u8>,
    signals: [Signal; 4],
    before: Termios,
}

impl Keys {
    pub(super) fn open() -> Result<Self, Failure> {
        let wrong = |error: io::Error| {
            Failure::failed(format!(
                "cannot read single keys from the terminal: {error}"
            ))
        };
        // From here on a signal is a key: none may end the process while the terminal is not as it was.
        let take = |kind| signal(kind).map_err(wrong);
        let signals = [
            take(SignalKind::terminate())?,
            take(SignalKind::hangup())?,
            take(SignalKind::quit())?,
            take(SignalKind::interrupt())?,
        ];
        let terminal = dup(io::stdin()).map_err(|error| wrong(error.into()))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that may be closed elsewhere; this one is owned"
        )]
        let terminal = AsyncFd::new(terminal).map_err(wrong)?;
        let before = tcgetattr(io::stdin()).map_err(|error| wrong(error.into()))?;
        let mut single = before.clone();
        single
            .local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        single.special_codes[SpecialCodeIndex::VMIN] = 1;
        single.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &single)
            .map_err(|error| wrong(error.into()))?;
        Ok(Self {
            terminal,
            decoder: Decoder::default(),
            bytes: VecDeque::new(),
            signals,
            before,
        })
    }

    /// Waits for the next key. A signal, and a terminal that has gone, are an interrupt.
    pub(super) async fn next(&mut self) -> Key {
        loop {
            while let Some(byte) = self.bytes.pop_front() {
                if let Some(key) = self.decoder.push(byte) {
                    return key;
                }
            }
            let [terminate, hangup, quit, interrupt] = &mut self.signals;
            let limit = match self.decoder.is_open() {
                true => SEQUENCE_WAIT,
                false => Duration::MAX,
            };
            let more = tokio::select! {
                _ = terminate.recv() => return Key::Interrupt,
                _ = hangup.recv() => return Key::Interrupt,
                _ = quit.recv() => return Key::Interrupt,
                _ = interrupt.recv() => return Key::Interrupt,
                more = timeout(limit, fill(&self.terminal, &mut self.bytes)) => more,
            };
            match more {
                Ok(true) => {}
                Ok(false) => return Key::Interrupt,
                Err(_) => {
                    if let Some(key) = self.decoder.silence() {
                        return key;
                    }
                }
            }
        }
    }

    /// Forgets what was typed so far: it was not meant for what is shown next. An interrupt among it is kept.
    pub(super) fn forget(&mut self) {
        while has_more(self.terminal.get_ref()) && take(self.terminal.get_ref(), &mut self.bytes) {}
        let mut interrupted = false;
        for byte in self.bytes.drain(..) {
            interrupted |= self.decoder.push(byte) == Some(Key::Interrupt);
        }
        // A sequence that has come by half stays open: its other half is no key either.
        if interrupted {
            self.bytes.push_back(0x03);
        }
    }
}

/// Waits for bytes; false when the terminal has gone. Cancel-safe.
async fn fill(terminal: &AsyncFd<OwnedFd>, bytes: &mut VecDeque<u8>) -> bool {
    loop {
        let Ok(mut ready) = terminal.readable().await else {
            return false;
        };
        // The terminal is shared with the shell and stays blocking, so it is read only where there is something.
        if has_more(terminal.get_ref()) {
            return take(terminal.get_ref(), bytes);
        }
        if ready.ready().is_read_closed() || ready.ready().is_error() {
            return false;
        }
        ready.clear_ready();
        // What came between the look and the clearing is announced no more.
        if has_more(terminal.get_ref()) {
            return take(terminal.get_ref(), bytes);
        }
    }
}

fn has_more(terminal: &OwnedFd) -> bool {
    ioctl_fionread(terminal).is_ok_and(|bytes| bytes > 0)
}

/// Takes what is there; false when the terminal has gone.
fn take(terminal: &OwnedFd, bytes: &mut VecDeque<u8>) -> bool {
    let mut taken = [0; READ_BYTES];
    match read(terminal, &mut taken) {
        Ok(count) => {
            bytes.extend(&taken[..count]);
            count > 0
        }
        Err(_) => false,
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that has gone needs no care.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Shows the line that is being written, in place of what stood on it.
pub(super) fn prompt(text: &str) -> Result<(), Failure> {
    let width = terminal_size::terminal_size_of(io::stdout()).map_or(WIDTH, |(width, _)| width.0);
    let line = tail(&clean(text), usize::from(width));
    let mut stdout = io::stdout().lock();
    let written = write!(stdout, "\r\u{1b}[K{line}").and_then(|()| stdout.flush());
    written.map_err(|error| Failure::failed(format!("cannot write to the terminal: {error}")))
}

/// The end of a text that fits on a line of `width` columns: on a second one the next key would not replace it.
fn tail(text: &str, width: usize) -> String {
    // A letter outside ASCII may take two columns. The last column stays free for the cursor.
    let columns = |c: char| if c.is_ascii() { 1 } else { 2 };
    let room = width.saturating_sub(1);
    if text.chars().map(columns).sum::<usize>() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(columns('…'));
    let fits = |c: &char| {
        let fits = columns(*c) <= left;
        left = left.saturating_sub(columns(*c));
        fits
    };
    let end: Vec<char> = text.chars().rev().take_while(fits).collect();
    let mut line = String::from("…");
    line.extend(end.into_iter().rev());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_shows_its_end() {
        assert_eq!(tail("label: printing", 80), "label: printing");
        assert_eq!(tail("label: printing", 16), "label: printing");
        assert_eq!(tail("label: printing", 15), "…el: printing");
        assert_eq!(tail("日本語日本語", 9), "…日本語");
        assert_eq!(tail("日本語日本語", 8), "…本語");
        assert_eq!(tail("text", 0), "…");
    }
}
