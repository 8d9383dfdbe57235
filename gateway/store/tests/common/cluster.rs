//! A Redis Cluster for a test: three masters with a replica each, put together by hand.

use std::time::{Duration, Instant};

use super::{PATIENCE, RedisServer, free_port};

/// Masters; node `i + MASTERS` replicates node `i`, to begin with.
pub const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

pub struct Cluster {
    pub nodes: Vec<RedisServer>,
}

impl Cluster {
    /// Three masters, three replicas.
    pub fn start() -> Self {
        Self::of(MASTERS, &[])
    }

    /// Three masters that nobody replaces.
    pub fn without_replicas() -> Self {
        Self::of(0, &[])
    }

    /// With this many replicas and more options for every node.
    pub fn of(replicas: usize, options: &[&str]) -> Self {
        let nodes: Vec<RedisServer> = (0..MASTERS + replicas).map(|_| node(options)).collect();
        let cluster = Self { nodes };
        for (i, master) in cluster.nodes.iter().take(MASTERS).enumerate() {
            let (first, last) = (i * SLOTS / MASTERS, (i + 1) * SLOTS / MASTERS - 1);
            master.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            master.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
        }
        cluster.nodes.iter().skip(1).for_each(|node| cluster.meet(node));
        cluster.wait("all have met", |node| node.cluster_says("cluster_known_nodes", cluster.nodes.len()));
        for (i, replica) in cluster.nodes.iter().skip(MASTERS).enumerate() {
            let id = cluster.id(i);
            super::wait(|| replica.command(&["CLUSTER", "REPLICATE", &id]) == "OK");
        }
        cluster.wait("it is whole", |node| node.cluster_says("cluster_state", "ok"));
        let is_linked = |node: &RedisServer| node.command(&["INFO", "replication"]).contains("master_link_status:up");
        super::wait(|| cluster.nodes.iter().skip(MASTERS).all(is_linked));
        cluster
    }

    /// One more master, without slots.
    pub fn grow(&mut self) {
        let node = node(&[]);
        self.meet(&node);
        self.nodes.push(node);
        self.wait("the new one is known", |node| node.cluster_says("cluster_known_nodes", self.nodes.len()));
        self.wait("it is whole", |node| node.cluster_says("cluster_state", "ok"));
    }

    fn meet(&self, node: &RedisServer) {
        let (port, bus) = (node.port().to_string(), node.option("--cluster-port"));
        self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn wait(&self, what: &str, condition: impl Fn(&RedisServer) -> bool) {
        let began = Instant::now();
        for node in &self.nodes {
            while !condition(node) {
                assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    pub fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }

    pub fn slot(&self, key: &[u8]) -> usize {
        self.nodes[0].command::<&[u8]>(&[b"CLUSTER", b"KEYSLOT", key]).parse().expect("a slot")
    }

    /// Which master had this key to begin with.
    pub fn owner(&self, key: &[u8]) -> usize {
        let slot = self.slot(key);
        (0..MASTERS).find(|i| slot < (i + 1) * SLOTS / MASTERS).expect("slots end")
    }

    /// Announces that a slot is on its way; keys move one by one.
    pub fn begin_to_move(&self, slot: usize, from: usize, to: usize) {
        let slot = slot.to_string();
        assert_eq!(self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]), "OK");
        assert_eq!(self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]), "OK");
    }

    pub fn move_key(&self, key: &[u8], from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let command: [&[u8]; 6] = [b"MIGRATE", b"127.0.0.1", port.as_bytes(), key, b"0", b"5000"];
        assert_eq!(self.nodes[from].command(&command), "OK");
    }

    /// The slot is where it should be; the others hear of it from the two, one after another.
    pub fn end_move(&self, slot: usize, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            assert_eq!(self.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]), "OK");
        }
    }

    pub fn is_master(&self, node: usize) -> bool {
        self.nodes[node].command(&["INFO", "replication"]).contains("role:master")
    }
}

fn node(options: &[&str]) -> RedisServer {
    let start = || {
        let bus = free_port().to_string();
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
        // Without it a fresh replica may wait five seconds for others before it copies anything.
        all.extend(["--repl-diskless-sync-delay", "0"]);
        all.extend(options);
        RedisServer::start_at(free_port(), &all)
    };
    (0..20).find_map(|_| start()).expect("redis-server starts as a node of a cluster")
}

impl RedisServer {
    fn cluster_says(&self, what: &str, value: impl ToString) -> bool {
        let line = format!("{what}:{}", value.to_string());
        self.command(&["CLUSTER", "INFO"]).lines().any(|l| l == line)
    }
}
