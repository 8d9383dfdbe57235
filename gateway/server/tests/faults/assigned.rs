//! Faults 14 and 19 where arms are asked for without features: deadlines are read, and whatever is refused is counted, as
//! for features.

use tonic::Code;
use tonic_types::StatusExt;
use weir_proto::v1;

use crate::harness::Running;
use crate::stored::unhurried;
use crate::wire::{Caller, GRPC, framed};

const ASSIGN: &str = "/weir.v1.ExperimentService/Assign";

#[tokio::test]
async fn refused_arms_are_counted_and_their_deadlines_are_read() {
    let gateway = unhurried().start().await;
    let caller = Caller::to(gateway.listen()).await;
    let cases = [
        ("u", "", "grpc-timeout", "5", Code::InvalidArgument, 400, "INVALID_REQUEST", "grpc-timeout"),
        (
            "u",
            "",
            "x-request-timeout-ms",
            "soon",
            Code::InvalidArgument,
            400,
            "INVALID_REQUEST",
            "x-request-timeout-ms",
        ),
        ("u", "", "grpc-timeout", "0m", Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED", ""),
        ("u", "", "x-request-timeout-ms", "0", Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED", ""),
        ("", "", "grpc-timeout", "5S", Code::InvalidArgument, 400, "INVALID_REQUEST", "unit"),
        ("u", "nope", "grpc-timeout", "5S", Code::NotFound, 404, "UNKNOWN_SERVICE", ""),
    ];
    for (unit, service, header, value, code, status, reason, field) in cases {
        let before = refused(&gateway, reason).await;
        let request = v1::AssignRequest { unit: unit.into(), service: service.into(), ..Default::default() };
        let message = framed(&prost::Message::encode_to_vec(&request));
        let told = caller.post(ASSIGN, &[GRPC, &[(header, value)]].concat(), message).await.grpc();
        assert_eq!(told.code(), code, "{header}: {value}: {told:?}");
        let details = told.get_error_details();
        assert_eq!(details.error_info().expect("a reason").reason, reason);
        let fields = details.bad_request().map(|bad| bad.field_violations.iter().map(|v| &*v.field).collect());
        assert_eq!(fields.unwrap_or_else(|| vec![""]), [field], "{told:?}");

        let service = if service.is_empty() { serde_json::Value::Null } else { service.into() };
        let body = serde_json::json!({ "unit": unit, "service": service }).to_string();
        let headers = [("content-type", "application/json"), (header, value)];
        let reply = caller.post("/v1/assign", &headers, body).await;
        assert_eq!(reply.status, status, "{reply:?}");
        assert!(reply.text().contains(reason), "{reply:?}");
        assert_eq!(refused(&gateway, reason).await, before + 2.0, "{reason}");
    }
    let request = v1::AssignRequest { unit: "u".into(), ..Default::default() };
    let message = framed(&prost::Message::encode_to_vec(&request));
    let reply: v1::AssignResponse =
        caller.post(ASSIGN, &[GRPC, &[("grpc-timeout", "5S")]].concat(), message).await.message();
    assert!(!reply.assignments.is_empty());
    gateway.stop().await;
}

async fn refused(gateway: &Running, reason: &str) -> f64 {
    gateway.metric(&format!("weir_refusals_total{{reason=\"{reason}\"}} ")).await
}
