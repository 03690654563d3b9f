//! Connections, with real sockets: the silent and the idle are closed, and keep nobody out.

use std::time::Duration;

use colony_node::{config::Gateway, gateway};
use colony_proto::v1::{self, cluster_client::ClusterClient};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use tonic::transport::{Channel, Endpoint};

use super::api::{Api, code, connect, next, task};

/// Beyond any test.
const NEVER: Duration = Duration::from_secs(3_600);
/// As short as it may be.
const SOON: Duration = Duration::from_millis(100);

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a gRPC call, on the first stream.
fn call(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "node"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        // A literal that is not indexed, with a literal name.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    frame(1, 4, 1, &block)
}

/// Preface, settings, and a gRPC health check.
fn health_check() -> Vec<u8> {
    let empty = frame(0, 1, 1, &[0; 5]);
    let settings = frame(4, 0, 0, &[]);
    let call = call("/grpc.health.v1.Health/Check");
    [PREFACE, &settings, &call, &empty].concat()
}

/// A call with an empty message by a client that takes no more than `window` bytes of each answer.
fn call_within(window: u32, path: &str) -> Vec<u8> {
    let initial_window = [&[0, 4][..], &window.to_be_bytes()].concat();
    let settings = frame(4, 0, 0, &initial_window);
    let empty = frame(0, 1, 1, &[0; 5]);
    [PREFACE, &settings, &call(path), &empty].concat()
}

/// Reads until the server sends headers with these flags: 4 begin an answer, 5 end one.
async fn headers(socket: &mut TcpStream, wanted: u8) {
    let found = async {
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            socket.read_exact(&mut payload).await.expect("all of it");
            if (kind, flags) == (1, wanted) {
                break;
            }
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), found).await;
    assert!(waited.is_ok(), "no headers with flags {wanted} in 30 s");
}

/// A connection on which this was said.
async fn say(api: &Api, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(api.address).await.expect("a socket");
    socket.write_all(bytes).await.expect("sent");
    socket
}

/// Waits until the server closes a connection, answering its pings; returns what it had said.
async fn closed(mut socket: TcpStream) -> Vec<u8> {
    let (mut said, mut at) = (Vec::new(), 0);
    let all = async {
        // A reset closes it as well.
        while socket.read_buf(&mut said).await.is_ok_and(|read| read > 0) {
            while let Some(&[a, b, c, kind, flags, ..]) = said.get(at..)
                && let length = u32::from_be_bytes([0, a, b, c]) as usize
                && let Some(payload) = said.get(at + 9..at + 9 + length)
            {
                if kind == 6 && flags == 0 {
                    socket.write_all(&frame(6, 1, 0, payload)).await.ok();
                }
                at += 9 + length;
            }
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(waited.is_ok(), "the server does not close it in 30 s");
    said
}

async fn works(channel: Channel) {
    let status = ClusterClient::new(channel)
        .status(v1::StatusRequest {})
        .await;
    assert_eq!(status.expect("answers").into_inner().node, "node-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_connections_keep_no_client_out() {
    let api = Api::with(|config| {
        config.gateway.connections_max = 32;
        config.gateway.first_request_timeout = NEVER;
    })
    .await;
    works(api.channel.clone()).await;
    let mut silent = Vec::new();
    for n in 0..1_000 {
        // Some say nothing, others half of what they must, others all of it but no request.
        let settings = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let bytes = [&[][..], &PREFACE[..10], &settings][n % 3];
        silent.push(say(&api, bytes).await);
    }
    works(connect(api.address).await).await;
    // Whoever was there before is still.
    works(api.channel.clone()).await;
    // And of the silent ones most are gone.
    closed(silent.swap_remove(0)).await;
    drop(silent);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_bound_no_connection_in_use_is_given_up() {
    let api = Api::with(|config| {
        config.gateway.connections_max = 1;
        config.gateway.first_request_timeout = NEVER;
    })
    .await;
    works(api.channel.clone()).await;
    for _ in 0..3 {
        assert!(closed(say(&api, &[]).await).await.is_empty());
    }
    works(api.channel.clone()).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_when_its_connection_has_ended() {
    let mut api = Api::with(|config| config.gateway.connections_max = 1).await;
    works(api.channel.clone()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", api.address)).expect("an address");
    // Closes the first connection.
    api.channel = endpoint.connect_lazy();
    let again = async {
        while ClusterClient::new(api.channel.clone())
            .status(v1::StatusRequest {})
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(Duration::from_secs(30), again)
        .await
        .expect("a place in 30 s");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let api = Api::with(|config| config.gateway.first_request_timeout = SOON).await;
    let settings = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for said in [&[][..], &PREFACE[..10], &settings] {
        closed(say(&api, said).await).await;
    }
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_stream_is_not_idle() {
    let api = Api::with(|config| {
        config.gateway.idle_timeout = SOON;
        config.gateway.keepalive_interval = NEVER;
    })
    .await;
    let mut watch = api.watch(v1::WatchRequest::default()).await;
    next(&mut watch).await;
    // One after the other: more than twice the time-out in all.
    for _ in 0..4 {
        let said = closed(say(&api, &health_check()).await).await;
        assert!(!said.is_empty(), "the request was answered");
    }
    api.submit(task("echo", "still there")).await;
    next(&mut watch).await;
    drop(watch);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_is_closed_when_that_is_wanted() {
    let api = Api::with(|config| {
        config.gateway.connection_age_max = SOON;
        config.gateway.idle_timeout = NEVER;
        config.gateway.keepalive_interval = NEVER;
    })
    .await;
    let said = closed(say(&api, &health_check()).await).await;
    assert!(!said.is_empty(), "the request was answered");
    works(connect(api.address).await).await;
    api.close().await;
}

const STATUS: &str = "/colony.v1.Cluster/Status";

/// Waits until a request is served.
async fn served(api: &Api) {
    let served = async {
        while let Err(refused) = ClusterClient::new(api.channel.clone())
            .status(v1::StatusRequest {})
            .await
        {
            assert_eq!(code(&refused), "CLY0017");
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), served).await;
    assert!(waited.is_ok(), "no place in 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_keeps_its_place_until_it_is_read() {
    let api = Api::with(|config| config.gateway.requests_max = 1).await;
    // Of the second answer a byte is taken, after which all of it lies in the transport.
    for window in [0, 1] {
        let mut socket = say(&api, &call_within(window, STATUS)).await;
        headers(&mut socket, 4).await;
        let refused = ClusterClient::new(api.channel.clone())
            .status(v1::StatusRequest {})
            .await;
        let refused = refused.expect_err("the place is taken");
        assert_eq!(code(&refused), "CLY0017");
        let wider = frame(8, 0, 1, &1_000_000_u32.to_be_bytes());
        socket.write_all(&wider).await.expect("sent");
        headers(&mut socket, 5).await;
        served(&api).await;
    }
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_answer_is_not_read_in_time_is_closed() {
    let api = Api::with(|config| {
        config.gateway.requests_max = 2;
        // Long enough for answers to begin.
        config.gateway.request_timeout = Duration::from_secs(1);
        config.gateway.idle_timeout = NEVER;
        config.gateway.keepalive_interval = NEVER;
    })
    .await;
    let mut unread = Vec::new();
    for path in [
        "/grpc.health.v1.Health/Watch",
        "/colony.v1.Tasks/Watch",
        STATUS,
    ] {
        for window in [0, 1] {
            let mut socket = say(&api, &call_within(window, path)).await;
            headers(&mut socket, 4).await;
            unread.push(socket);
        }
    }
    for socket in unread {
        closed(socket).await;
    }
    served(&api).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_from_which_nothing_is_read_is_closed() {
    let api = Api::open().await;
    let limits = Gateway {
        request_timeout: SOON,
        first_request_timeout: NEVER,
        idle_timeout: SOON,
        keepalive_interval: NEVER,
        ..Gateway::default()
    };
    // The answer fills the pipe, after which the server neither writes nor reads.
    let (mut client, server) = tokio::io::duplex(128);
    let incoming = stream::iter([Ok::<_, std::io::Error>(server)]).chain(stream::pending());
    let served = gateway::serve(api.handle.clone(), limits, incoming, std::future::pending());
    let unread = async {
        let call = call_within(i32::MAX.cast_unsigned(), STATUS);
        client.write_all(&call).await.expect("sent");
        while client.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {}
    };
    tokio::select! {
        ended = served => panic!("the server goes on: {ended:?}"),
        closed = tokio::time::timeout(Duration::from_secs(30), unread) => {
            closed.expect("closed in 30 s");
        }
    }
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_asks_for_nothing_keeps_no_place() {
    let api = Api::with(|config| {
        config.gateway.requests_max = 1;
        config.gateway.request_timeout = SOON;
    })
    .await;
    let reflection = call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let settings = frame(4, 0, 0, &[]);
    let mut socket = say(&api, &[PREFACE, &settings, &reflection].concat()).await;
    headers(&mut socket, 5).await;
    served(&api).await;
    // Watch streams may be silent for ever, and have a bound of their own.
    let mut watch = api.watch(v1::WatchRequest::default()).await;
    next(&mut watch).await;
    served(&api).await;
    drop(watch);
    api.close().await;
}
