//! Generates the wire types from the `.proto` files with protox: no `protoc` is needed.

use std::path::{Path, PathBuf};

use tonic_prost_build::manual::{Builder, Method, Service};

const WEIR: [&str; 2] = ["weir/v1/features.proto", "weir/v1/experiments.proto"];
const FEAST: [&str; 2] = ["feast/serving/grpc_server.proto", "feast/core/registry.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=weir");
    println!("cargo::rerun-if-changed=feast");
    messages(&WEIR, &out.join("weir.v1.bin"))?;
    messages(&FEAST, &out.join("feast.bin"))?;

    // The gateway encodes replies in place, column by column: its side of these calls answers with finished bytes
    // instead of a message tree, and reads one of the requests in place too. On the wire both are the same.
    let encoded = |rust: &str, name: &str, request: &str, codec: &str| {
        let method = Method::builder().name(rust).route_name(name).input_type(request);
        method.output_type("crate::encoded::Encoded").codec_path(codec).build()
    };
    let plain = |rust: &str, name: &str, request: &str, reply: &str| {
        let method = Method::builder().name(rust).route_name(name).input_type(request).output_type(reply);
        method.codec_path("tonic_prost::ProstCodec").build()
    };
    let online = || {
        let request = "crate::feast::serving::GetOnlineFeaturesRequest";
        encoded("get_online_features", "GetOnlineFeatures", request, "crate::encoded::OnlineCodec")
    };
    let features = Service::builder().name("FeatureService").package("weir.v1");
    let features = features
        .method(encoded("get_features", "GetFeatures", "bytes::Bytes", "crate::encoded::FeaturesCodec"))
        .build();
    let serving = Service::builder()
        .name("ServingService")
        .package("feast.serving")
        .method(plain(
            "get_feast_serving_info",
            "GetFeastServingInfo",
            "crate::feast::serving::GetFeastServingInfoRequest",
            "crate::feast::serving::GetFeastServingInfoResponse",
        ))
        .method(online())
        .build();
    let python = Service::builder()
        .name("GrpcFeatureServer")
        .package("")
        .method(plain("push", "Push", "crate::feast::python::PushRequest", "crate::feast::python::PushResponse"))
        .method(plain(
            "write_to_online_store",
            "WriteToOnlineStore",
            "crate::feast::python::WriteToOnlineStoreRequest",
            "crate::feast::python::WriteToOnlineStoreResponse",
        ))
        .method(online())
        .build();
    Builder::new().build_client(false).build_transport(false).out_dir(&out).compile(&[features, serving, python]);
    Ok(())
}

/// Messages, plain clients and servers, and the descriptors for reflection.
fn messages(files: &[&str], descriptors: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let compiled = protox::compile(files, ["."])?;
    std::fs::write(descriptors, prost::Message::encode_to_vec(&compiled))?;
    // Feast's maps in the order of their keys: the same message is the same bytes every time.
    let ordered = [".feast", ".PushRequest", ".WriteToOnlineStoreRequest"];
    let mut build = tonic_prost_build::configure().build_transport(false);
    for path in ordered {
        build = build.btree_map(path);
    }
    build.compile_fds(compiled)?;
    Ok(())
}
