//! What callers see on the wire: the messages and services of `weir.v1`, generated from the `.proto` files in
//! this folder, and those of Feast that the gateway reads and speaks too. Changes are additive only.

/// Messages, clients and the plain servers of `weir.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("weir.v1");

    /// The encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weir.v1.bin"));
}

/// Feast's messages.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod feast {
    /// Those of its Python server, which have no package.
    pub mod python {
        tonic::include_proto!("_");

        /// Where generated code looks for the packages.
        pub mod feast {
            pub use crate::feast::{serving, types};
        }
    }
    /// The registry.
    pub mod core {
        tonic::include_proto!("feast.core");
    }
    /// What callers of a feature server send and get.
    pub mod serving {
        tonic::include_proto!("feast.serving");
    }
    /// Values and their types.
    pub mod types {
        tonic::include_proto!("feast.types");
    }

    /// The encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/feast.bin"));
}

pub mod encoded;
