//! From the core module that a compiler makes to the component that the gateway loads.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use thiserror::Error;
use wit_component::{ComponentEncoder, DecodedWasm};

/// Why a core module cannot become a component.
#[derive(Debug, Error)]
pub enum PackError {
    /// It is one already.
    #[error("this is a component already: use it as it is")]
    Component,
    /// It is something else, or not built with the SDK.
    #[error("not a core module built with the SDK: {0}")]
    Module(String),
    /// It does not export what the gateway calls.
    #[error("the module does not export `{0}`: is there a `weir_plugin::transform!` in the crate?")]
    Export(&'static str),
}

/// What the contract's world exports.
const EXPORTS: [&str; 2] = ["describe", "transform"];

/// Packs a core module built with the SDK into a component. Same bytes in, same bytes out.
pub fn pack(core: &[u8]) -> Result<Vec<u8>, PackError> {
    if is_component(core) {
        return Err(PackError::Component);
    }
    // The encoder's own error type is not ours to name: it is kept as its whole chain, in words.
    let component = ComponentEncoder::default()
        .validate(true)
        .module(core)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| PackError::Module(format!("{error:#}")))?;
    let exported = exports(&component);
    match EXPORTS.into_iter().find(|name| !exported.iter().any(|e| e == name)) {
        Some(missing) => Err(PackError::Export(missing)),
        None => Ok(component),
    }
}

fn exports(component: &[u8]) -> Vec<String> {
    match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => {
            resolve.worlds[world].exports.keys().map(|key| resolve.name_world_key(key)).collect()
        }
        _ => Vec::new(),
    }
}

/// `sha256:…` of a component, as the catalog pins it.
pub fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether the header is that of a component; a core module's differs in its last four bytes.
pub(crate) fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x0d\0\x01\0")
}

/// Whether the header is that of a core module.
pub(crate) fn is_module(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}
