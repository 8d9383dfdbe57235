//! Generates the wire types from the `.proto` files with protox: no `protoc` is needed.

use std::path::PathBuf;

use tonic_prost_build::manual::{Method, Service};

const FILES: [&str; 2] = ["weir/v1/features.proto", "weir/v1/experiments.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=weir");
    let descriptors = protox::compile(FILES, ["."])?;
    std::fs::write(out.join("weir.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;

    // The gateway encodes replies in place, column by column: its side of GetFeatures answers with finished
    // bytes instead of a message tree. On the wire both are the same.
    let encoded = Service::builder()
        .name("FeatureService")
        .package("weir.v1")
        .method(
            Method::builder()
                .name("get_features")
                .route_name("GetFeatures")
                .input_type("crate::v1::GetFeaturesRequest")
                .output_type("crate::encoded::Encoded")
                .codec_path("crate::encoded::EncodedCodec")
                .build(),
        )
        .build();
    tonic_prost_build::manual::Builder::new()
        .build_client(false)
        .build_transport(false)
        .out_dir(std::env::var("OUT_DIR")?)
        .compile(&[encoded]);
    Ok(())
}
