//! Watch streams: taken up again, closed with the door, refused when it is full.

use colony_proto::v1::{self, TaskState};
use tonic::Code;
use tonic_types::StatusExt;

use super::house::{House, code, submit, task};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_taken_up_from_its_cursor_and_closed_with_the_door() {
    let house = House::open().await;
    let all = v1::WatchRequest {
        after_cursor: Some(0),
        ..Default::default()
    };
    let mut first = house
        .tasks()
        .watch(all)
        .await
        .expect("watched")
        .into_inner();
    let new = submit(task("echo", "one"));
    house.tasks().submit(new).await.expect("accepted");
    let mut seen = Vec::new();
    while seen.last() != Some(&TaskState::Done) {
        seen.push(
            first
                .message()
                .await
                .expect("unbroken")
                .expect("open")
                .state(),
        );
    }
    assert_eq!(seen[0], TaskState::Ready);
    let all = v1::WatchRequest {
        after_cursor: Some(0),
        ..Default::default()
    };
    let mut second = house
        .tasks()
        .watch(all)
        .await
        .expect("watched")
        .into_inner();
    for state in &seen {
        let change = second.message().await.expect("unbroken").expect("open");
        assert_eq!(change.state(), *state);
    }
    let bad = v1::WatchRequest {
        until_ended: true,
        ..Default::default()
    };
    assert_eq!(
        code(&house.tasks().watch(bad).await.expect_err("without ids")),
        "CLY0010"
    );
    let none = uuid_of_nothing();
    let bad = v1::WatchRequest {
        task_ids: vec![none],
        ..Default::default()
    };
    assert_eq!(
        code(&house.tasks().watch(bad).await.expect_err("no such task")),
        "CLY0013"
    );
    house.close().await;
    let end = first.message().await.expect_err("the door is closed");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
}

fn uuid_of_nothing() -> String {
    "00000000-0000-7000-8000-000000000000".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_door_says_when_to_come_back_and_health_stays_open() {
    let house = House::with(|config| config.gateway.watches_max = 1).await;
    let watch = v1::WatchRequest::default;
    let _held = house.tasks().watch(watch()).await.expect("the first fits");
    let full = house
        .tasks()
        .watch(watch())
        .await
        .expect_err("the second does not");
    assert_eq!(
        (full.code(), code(&full).as_str()),
        (Code::Unavailable, "CLY0017")
    );
    assert!(full.get_error_details().retry_info().is_some());
    let mut health = tonic_health::pb::health_client::HealthClient::new(house.channel.clone());
    for service in ["", "colony.v1.Tasks", "colony.v1.Cluster"] {
        let check = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(check).await.expect("healthy").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    drop(_held);
    house.close().await;
}
