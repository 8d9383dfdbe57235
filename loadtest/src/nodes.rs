//! A Redis cluster as a client of it has to know it: which node has a key, and a connection to each. Slots are asked for
//! once; a floor has no failovers.

use std::net::SocketAddr;

use crate::mux::Mux;
use crate::resp;

/// Every cluster has so many slots.
const SLOTS: u16 = 16_384;

/// Connections by slot; one server has them all.
pub(crate) struct Nodes {
    muxes: Vec<Mux>,
    /// Index of the node by slot; empty where there is only one.
    by_slot: Vec<usize>,
}

impl Nodes {
    /// One server.
    pub(crate) async fn one(at: SocketAddr) -> Result<Self, crate::Failed> {
        Ok(Self { muxes: vec![Mux::connect(at).await?], by_slot: Vec::new() })
    }

    /// The masters of the cluster that this node is of.
    pub(crate) async fn of_cluster(node: SocketAddr) -> Result<Self, crate::Failed> {
        let mut command = Vec::new();
        resp::push(&mut command, &[b"CLUSTER", b"NODES"]);
        let reply = Mux::connect(node).await?.ask(command, 1)?.await.map_err(|_| format!("{node} is no cluster"))?;
        let text = resp::values(&reply).next().and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
        let mut nodes = Self { muxes: Vec::new(), by_slot: vec![usize::MAX; usize::from(SLOTS)] };
        // id ip:port@bus flags master ping pong epoch state slots…
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.get(1).and_then(|at| at.split('@').next()).unwrap_or_default();
            if !words.get(2).is_some_and(|flags| flags.contains("master")) {
                continue;
            }
            nodes.muxes.push(Mux::connect(crate::loopback(at)?).await?);
            for range in words.iter().skip(8) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (first, last): (usize, usize) = (first.parse()?, last.parse()?);
                let slots = nodes.by_slot.get_mut(first..=last).ok_or("a slot that no cluster has")?;
                slots.fill(nodes.muxes.len() - 1);
            }
        }
        if nodes.by_slot.contains(&usize::MAX) {
            return Err(format!("{node}: some slots have no master").into());
        }
        Ok(nodes)
    }

    pub(crate) fn count(&self) -> usize {
        self.muxes.len()
    }

    /// Which node has a key.
    pub(crate) fn node(&self, key: &[u8]) -> usize {
        self.by_slot.get(usize::from(crc16(key) % SLOTS)).copied().unwrap_or(0)
    }

    pub(crate) fn mux(&self, node: usize) -> &Mux {
        &self.muxes[node]
    }
}

/// CRC-16/XMODEM, a byte at a time. Of our keys none has a `{tag}`.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b"foo") % SLOTS, 12_182);
    }
}
