//! The ledger is verified over the wire.

use colony_proto::v1::{self, cluster_client::ClusterClient};

use super::api::{Api, task, watch_to_the_end};

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_ledger_is_said_to_be_whole() {
    let api = Api::open().await;
    let id = api.submit(task("echo", "hello")).await;
    watch_to_the_end(&api, vec![id]).await;
    let mut cluster = ClusterClient::new(api.channel.clone());
    let found = cluster.verify_ledger(v1::VerifyLedgerRequest {}).await;
    let found = found.expect("verified").into_inner();
    assert!(found.whole, "{found:?}");
    assert!(found.rows.values().sum::<u64>() > 0, "{found:?}");
    assert_eq!((found.quarantined_total, found.problems_total), (0, 0));
    api.close().await;
}
