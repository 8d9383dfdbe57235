//! Fault 8: one node of several is slow, not gone. The others' routes come as ever, its own are stale, and the reply
//! says which is which.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use weir_domain::Provenance::{Stale, Store};

use crate::cards::{Cards, loaded, of};
use crate::harness::eventually;
use crate::harness::redis::{Cluster, until};

/// The node does nothing for this long, again and again: longer than callers wait, shorter than a read may live.
const SLEEP_S: &str = "0.16";
const BUDGET_MS: u32 = 80;
/// Replies of the wanted kind: enough that a reply which came in between two sleeps proves nothing.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_does_not_hold_up_the_others() {
    let cluster = Cluster::of(0, &["--cluster-require-full-coverage", "no", "--enable-debug-command", "yes"]);
    let cards = Cards::over(&loaded(&cluster.url(), BUDGET_MS)).await;
    let wanted = of(&cluster, 1).map(|own| if own { Stale } else { Store });
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                cluster.nodes[1].command(&["DEBUG", "SLEEP", SLEEP_S]);
            }
        });
        let rounds = async {
            let mut partial = 0;
            until("the others come while it is late", async || {
                let reply = cards.ask().await;
                assert!(reply.iter().all(|from| [Store, Stale].contains(from)), "{reply:?}");
                partial += usize::from(reply == wanted);
                partial >= ROUNDS
            })
            .await;
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(rounds));
        is_over.store(true, SeqCst);
    });
    assert!(cards.metric("weir_store_late_fills_total").await > 0.0, "what it said late is kept");
    assert!(cards.metric(r#"weir_values_total{service="route_card",provenance="STALE"}"#).await > 0.0);
    eventually("all is as before", async || cards.ask().await.iter().all(|from| *from == Store)).await;
    assert_eq!(cards.metric("weir_store_nodes_out").await, 0.0);
}
