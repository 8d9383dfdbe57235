//! What callers see on the wire: the messages and services of `weir.v1`, generated from the `.proto` files in
//! this folder. Changes are additive only.

/// Messages, clients and the plain servers of `weir.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("weir.v1");

    /// The encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weir.v1.bin"));
}

pub mod encoded;
