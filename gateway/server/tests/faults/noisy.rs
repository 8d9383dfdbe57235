//! Fault 13: one caller that asks for far more than its share. It is the one who is refused; whoever asks for little is
//! served as if it were alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic::Code;
use weir_domain::Provenance::{Computed, DefaultShed, Shed};
use weir_proto::v1;
use weir_proto::v1::feature_service_client::FeatureServiceClient;

use crate::harness::{Setup, connect, eventually, flights};
use crate::overload::{SMALL, announce, learning, metric};
use crate::stored::provenances;

#[tokio::test]
async fn a_full_house_has_room_for_who_asks_for_little() {
    // A process of its own: how busy it is counts, and other tests are not its business.
    let gateway = Setup::demo().append("weir.toml", SMALL).spawn();
    let mut inside = Vec::new();
    for n in 1..=20 {
        inside.push(announce(gateway.listen, "x-weir-caller: noisy\r\n").await);
        eventually("it is inside", async || metric(gateway.admin, "weir_in_flight ").await == f64::from(n)).await;
    }
    let client = connect(gateway.listen).await;
    for _ in 0..50 {
        assert_eq!(ask(&client, "noisy").await.expect_err("it has all there is").code(), Code::ResourceExhausted);
        let reply = ask(&client, "quiet").await.expect("an answer");
        assert!(provenances(&reply).any(|p| p == Computed));
        assert!(provenances(&reply).all(|p| ![Shed, DefaultShed].contains(&p)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quiet_one_is_never_refused_while_the_noisy_one_is() {
    const NOISE: usize = 200;
    let gateway = learning(Setup::demo()).spawn();
    let stopped = Arc::new(AtomicBool::new(false));
    let (answered, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients = [connect(gateway.listen).await, connect(gateway.listen).await];
    let mut noise = JoinSet::new();
    for n in 0..NOISE {
        let (client, stopped) = (clients[n % 2].clone(), stopped.clone());
        let (answered, refused) = (answered.clone(), refused.clone());
        noise.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                match ask(&client, "noisy").await {
                    Ok(_) => answered.fetch_add(1, Ordering::SeqCst),
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        refused.fetch_add(1, Ordering::SeqCst)
                    }
                };
            }
        });
    }
    let client = connect(gateway.listen).await;
    eventually("the noisy one is refused", async || refused.load(Ordering::SeqCst) > NOISE).await;
    let (before, mut degraded) = (refused.load(Ordering::SeqCst), 0);
    for _ in 0..100 {
        let reply = ask(&client, "quiet").await.expect("the quiet one is never refused");
        degraded += usize::from(provenances(&reply).any(|p| [Shed, DefaultShed].contains(&p)));
    }
    eventually("the noisy one is refused again", async || refused.load(Ordering::SeqCst) > before).await;
    stopped.store(true, Ordering::SeqCst);
    noise.join_all().await;
    println!("noisy: {answered:?} answered, {refused:?} refused; quiet: 100 answered, {degraded} degraded");
    assert!(answered.load(Ordering::SeqCst) > 0);
    assert_eq!(degraded, 0);
    // That its share was the reason is said of those who come while the quiet one is seen inside, which is not for long.
    let metric = async |why: &str| {
        metric(gateway.admin, &format!(r#"weir_admission_refused_total{{priority="normal",reason="{why}"}} "#)).await
    };
    assert!(metric("share").await + metric("limit").await >= before as f64);
}

async fn ask(
    client: &FeatureServiceClient<tonic::transport::Channel>,
    caller: &'static str,
) -> Result<v1::GetFeaturesResponse, tonic::Status> {
    let dests = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "DEN", "MCO"];
    let mut request = tonic::Request::new(flights("", "JFK", &dests.map(|dest| ("N14228", "UA", dest))));
    request.metadata_mut().insert("x-weir-caller", caller.parse().expect("a name"));
    client.clone().get_features(request).await.map(tonic::Response::into_inner)
}
