//! Fault 14: deadlines that have passed, that are absurd, or that nobody can read, as they come over the wire. Who has no
//! time is refused before the store hears of it; who is very patient waits as long as the service does; who cannot be
//! understood is told so, because it believes that it has a deadline.

use tonic::Code;
use tonic_types::StatusExt;
use weir_proto::v1;

use crate::harness::exchange;
use crate::stored::{filled, route, unhurried};
use crate::wire::Caller;

const BODY: &str = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;

fn message() -> Vec<u8> {
    prost::Message::encode_to_vec(&route("JFK", &["LAX"]))
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_refused_before_the_store_hears_of_it() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let caller = Caller::to(gateway.listen()).await;
    let passed =
        [("grpc-timeout", "0m"), ("grpc-timeout", "00000000H"), ("grpc-timeout", "1n"), ("x-request-timeout-ms", "0")];
    for (header, value) in passed {
        let status = caller.call(&[(header, value)], &message()).await.grpc();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{header}: {value}: {status:?}");
        assert_eq!(status.get_error_details().error_info().expect("a reason").reason, "DEADLINE_EXCEEDED");
        let headers = [("content-type", "application/json"), (header, value)];
        let (status, _, reply) = exchange(gateway.listen(), "POST", "/v1/features", &headers, BODY).await;
        assert_eq!(status, 504, "{header}: {value}");
        assert!(reply.contains("DEADLINE_EXCEEDED"), "{reply}");
    }
    // The lesser counts, whichever header it stands in.
    for both in [
        [("grpc-timeout", "1H"), ("x-request-timeout-ms", "0")],
        [("grpc-timeout", "0S"), ("x-request-timeout-ms", "9")],
    ] {
        assert_eq!(caller.call(&both, &message()).await.grpc().code(), Code::DeadlineExceeded);
    }
    assert_eq!((server.calls("mget"), server.calls("get")), (0, 0));
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="DEADLINE_EXCEEDED"} "#).await, 10.0);
    assert_eq!(gateway.metric("weir_store_keys_total ").await, 0.0);
    // The same with time is read.
    assert_eq!(caller.call(&[], &message()).await.message::<v1::GetFeaturesResponse>().rows, 1);
    assert_eq!(server.calls("mget"), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn an_absurd_deadline_is_clamped_to_the_services_own() {
    let gateway = unhurried().start().await;
    let caller = Caller::to(gateway.listen()).await;
    let granted = async |headers: &[(&str, &str)]| {
        let reply: v1::GetFeaturesResponse = caller.call(headers, &message()).await.message();
        reply.budget.expect("a budget").granted_us
    };
    let own = granted(&[]).await;
    assert_eq!(granted(&[("grpc-timeout", "7S")]).await, 7_000_000);
    for absurd in ["99999999H", "99999999M", "99999999S"] {
        assert_eq!(granted(&[("grpc-timeout", absurd)]).await, own, "{absurd}");
    }
    for absurd in ["86400000", "18446744073709551615", "99999999999999999999999999999999"] {
        assert_eq!(granted(&[("x-request-timeout-ms", absurd)]).await, own, "{absurd}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_deadline_that_nobody_can_read_is_an_error_that_names_its_header() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let caller = Caller::to(gateway.listen()).await;
    let grpc = ["", "S", "5", "-5m", "+5m", "5 m", " 5m", "5ms", "1.5S", "123456789m", "5d", "0x5m", "٥m", "5m,5m"];
    let grpc = grpc.map(|value| ("grpc-timeout", value));
    let http =
        ["", "soon", "-1", "+1", "1.5", "1e3", "1ms", "0x10", "1 0"].map(|value| ("x-request-timeout-ms", value));
    let mut refused = 0.0;
    for (header, value) in grpc.into_iter().chain(http) {
        let status = caller.call(&[(header, value)], &message()).await.grpc();
        assert_eq!(status.code(), Code::InvalidArgument, "{header}: {value:?}: {status:?}");
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("violations").field_violations;
        assert_eq!(violations.iter().map(|v| &*v.field).collect::<Vec<_>>(), [header], "{value:?}");
        let headers = [("content-type", "application/json"), (header, value)];
        let reply = caller.post("/v1/features", &headers, BODY).await;
        assert_eq!(reply.status, 400, "{header}: {value:?}");
        assert!(reply.text().contains(header) && reply.text().contains("INVALID_REQUEST"), "{reply:?}");
        refused += 2.0;
    }
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="INVALID_REQUEST"} "#).await, refused);
    assert_eq!(server.calls("mget"), 0);
    assert_eq!(caller.call(&[("grpc-timeout", "5S")], &message()).await.message::<v1::GetFeaturesResponse>().rows, 1);
    gateway.stop().await;
}
