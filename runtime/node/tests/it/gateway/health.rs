//! Health and reflection: what load balancers and tools ask.

use std::{sync::Arc, time::Duration};

use colony_proto::v1::{self, cluster_client::ClusterClient};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use super::api::{Api, code, submit, task};
use crate::faulty::Faulty;

/// Waits until the health service says this of every service.
async fn until(api: &Api, status: ServingStatus) {
    let mut health = HealthClient::new(api.channel.clone());
    for service in [
        "",
        "colony.v1.Tasks",
        "colony.v1.Cluster",
        "colony.v1.Outbox",
    ] {
        let check = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut said = health.watch(check).await.expect("watched").into_inner();
        let all = async {
            while said
                .message()
                .await
                .expect("unbroken")
                .expect("open")
                .status()
                != status
            {}
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert!(waited.is_ok(), "{service:?} does not become {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_does_not_serve() {
    let api = Api::open().await;
    until(&api, ServingStatus::Serving).await;
    let check = HealthCheckRequest::default();
    let watched = HealthClient::new(api.channel.clone()).watch(check).await;
    let mut watched = watched.expect("watched").into_inner();
    api.node.draining().await;
    until(&api, ServingStatus::NotServing).await;
    let refused = api.tasks().submit(submit(task("echo", "late"))).await;
    assert_eq!(code(&refused.expect_err("draining")), "CLY0018");
    api.close().await;
    // Whoever watched has heard it, and the stream has ended.
    let mut last = None;
    while let Some(said) = watched.message().await.expect("unbroken") {
        last = Some(said.status());
    }
    assert_eq!(last, Some(ServingStatus::NotServing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_failed_does_not_serve_and_says_why() {
    let ledger = Arc::new(Faulty::new());
    let api = Api::on(Arc::clone(&ledger) as _, |_| {}).await;
    until(&api, ServingStatus::Serving).await;
    ledger.fail("fsync failed");
    until(&api, ServingStatus::NotServing).await;
    let refused = api.tasks().submit(submit(task("echo", "late"))).await;
    let refused = refused.expect_err("failed");
    assert_eq!(
        (refused.code(), code(&refused).as_str()),
        (Code::Unavailable, "CLY0030")
    );
    let mut cluster = ClusterClient::new(api.channel.clone());
    let status = cluster
        .status(v1::StatusRequest {})
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(status.failed.as_deref(), Some("the ledger: fsync failed"));
    assert!(!status.ready);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_describes_itself_in_both_versions() {
    let api = Api::open().await;
    let mut services = Vec::new();

    let list = reflection::ServerReflectionRequest {
        message_request: Some(
            reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let channel = api.channel.clone();
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(list))
        .await;
    let mut answers = answers.expect("version 1 is there").into_inner();
    let answer = answers.next().await.expect("an answer").expect("no error");
    if let Some(reflection::server_reflection_response::MessageResponse::ListServicesResponse(
        list,
    )) = answer.message_response
    {
        services.extend(list.service.into_iter().map(|service| service.name));
    }
    assert!(
        services.contains(&"colony.v1.Tasks".to_owned()),
        "{services:?}"
    );

    let list = reflection_alpha::ServerReflectionRequest {
        message_request: Some(
            reflection_alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let channel = api.channel.clone();
    let mut client =
        reflection_alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(list))
        .await;
    let mut answers = answers.expect("version 1 alpha is there").into_inner();
    let answer = answers.next().await.expect("an answer").expect("no error");
    let alpha = reflection_alpha::server_reflection_response::MessageResponse::ListServicesResponse(
        Default::default(),
    );
    let listed = answer.message_response.expect("an answer");
    assert_eq!(
        std::mem::discriminant(&listed),
        std::mem::discriminant(&alpha)
    );
    api.close().await;
}
