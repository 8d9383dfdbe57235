//! What only this crate can ask of a Redis: batches of commands, and what the connections do behind the reads.

use futures::FutureExt;
use tokio::time::Instant;

use super::*;
use crate::common::{Cluster, MASTERS, RedisServer};

fn open(url: &str) -> Redis {
    Redis::open(&url.parse().unwrap()).unwrap()
}

async fn run(redis: &Redis, commands: Commands) -> Vec<Result<Bytes, Trouble>> {
    redis.run(commands, &Waits::until(Instant::now() + READ_LIFE)).await
}

fn commands(lines: &[&str]) -> Commands {
    let mut commands = Commands::default();
    for line in lines {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let key = Bytes::copy_from_slice(words[1]);
        commands.push(line.split(' ').next().unwrap(), &key, words[2..].iter().copied());
    }
    commands
}

fn said(reply: &'static str) -> Result<Bytes, Trouble> {
    Ok(Bytes::from_static(reply.as_bytes()))
}

#[tokio::test]
async fn commands_of_one_batch_are_answered_in_order_and_fail_alone() {
    let server = RedisServer::start();
    server.command(&["HSET", "h", "a", "1", "b", "2"]);
    server.command(&["SET", "s", "text"]);
    server.command(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+ping", "+get", "+hmget", "+hgetall"]);
    let redis = open(&server.url().replace("//", "//reader:pw@"));
    let asked = ["HMGET h b nothing a", "GET s", "HGETALL s", "HGETALL nobody", "LRANGE s 0 1", "GET h", "GET s"];
    let replies = run(&redis, commands(&asked)).await;
    let hash = said("*3\r\n$1\r\n2\r\n$-1\r\n$1\r\n1\r\n");
    let (wrong, not_allowed) = (Err(Trouble::WrongType), Err(Trouble::Permission));
    let (nobody, text) = (said("*0\r\n"), said("$4\r\ntext\r\n"));
    assert_eq!(replies, [hash, text.clone(), wrong.clone(), nobody, not_allowed, wrong, text]);
    let counters = redis.counters();
    assert_eq!((counters.store_batches.get(), counters.store_keys.get()), (1, 7));
    assert_eq!((counters.troubles(Trouble::WrongType), counters.troubles(Trouble::Permission)), (1, 1));
    assert_eq!(run(&redis, Commands::default()).await, []);
    assert_eq!(counters.store_batches.get(), 1);
}

#[tokio::test]
async fn a_batch_of_commands_to_a_frozen_server_ends_in_time() {
    let server = RedisServer::start();
    let redis = open(&server.url());
    redis.settled().await.unwrap();
    server.freeze();
    let began = Instant::now();
    let mut last = run(&redis, commands(&["GET a", "GET b"])).await;
    assert_eq!(last, [Err(Trouble::Timeout), Err(Trouble::Timeout)]);
    assert!(began.elapsed() < READ_LIFE * 10, "{:?}", began.elapsed());
    while last[0] != Err(Trouble::Breaker) {
        assert!(began.elapsed() < READ_LIFE * 40);
        last = run(&redis, commands(&["GET a"])).await;
    }
}

#[tokio::test]
async fn commands_go_to_the_nodes_that_have_their_keys() {
    let cluster = Cluster::without_replicas();
    let redis = open(&cluster.url());
    redis.settled().await.unwrap();
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    for key in &keys {
        cluster.nodes[cluster.owner(key.as_bytes())].command(&["HSET", key, "f", key]);
    }
    cluster.nodes[cluster.owner(b"k3")].command(&["SET", "k3", "no hash"]);
    let lines: Vec<String> = keys.iter().map(|key| format!("HMGET {key} f nothing")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let wanted = |key: &String| match key.as_str() {
        "k3" => Err(Trouble::WrongType),
        key => Ok(Bytes::from(format!("*2\r\n${}\r\n{key}\r\n$-1\r\n", key.len()))),
    };
    let wanted: Vec<_> = keys.iter().map(wanted).collect();
    assert_eq!(run(&redis, commands(&lines)).await, wanted);
    let counters = redis.counters();
    assert_eq!((counters.store_batches.get(), counters.store_keys.get()), (1, 60));
    assert_eq!(counters.troubles(Trouble::WrongType), 1);
    // What shares a node is known, and it is what shares a node.
    for key in &keys {
        let alike = cluster.owner(key.as_bytes()) == cluster.owner(b"k0");
        assert_eq!(redis.owners().number(key.as_bytes()) == redis.owners().number(b"k0"), alike);
    }
    // Two keys of one slot, one of them already on the other side.
    let slot = cluster.slot(b"{t}");
    let (from, to) = (cluster.owner(b"{t}"), (cluster.owner(b"{t}") + 1) % MASTERS);
    cluster.nodes[from].command(&["HSET", "{t}1", "f", "1"]);
    cluster.nodes[from].command(&["HSET", "{t}2", "f", "2"]);
    cluster.begin_to_move(slot, from, to);
    cluster.move_key(b"{t}2", from, to);
    let both = [said("*1\r\n$1\r\n2\r\n"), said("*1\r\n$1\r\n1\r\n")];
    assert_eq!(run(&redis, commands(&["HMGET {t}2 f", "HMGET {t}1 f"])).await, both);
    cluster.move_key(b"{t}1", from, to);
    cluster.end_move(slot, from, to);
    assert_eq!(run(&redis, commands(&["HMGET {t}2 f", "HMGET {t}1 f"])).await, both);
    assert_eq!(counters.redirects.get(), 3);
}

#[tokio::test]
async fn the_last_clone_takes_all_connections_and_tasks_with_it() {
    let (alone, cluster) = (RedisServer::start(), Cluster::without_replicas());
    let connected = |server: &RedisServer| {
        let info = server.command(&["INFO", "clients"]);
        let line = info.lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap().to_owned();
        // Without the one that asks.
        line.trim().parse::<usize>().unwrap() - 1
    };
    for (url, servers) in [(alone.url(), vec![&alone]), (cluster.url(), cluster.nodes.iter().collect())] {
        let redis = open(&url);
        let clone = redis.clone();
        crate::common::until("all are connected", async || servers.iter().all(|s| connected(s) == 2)).await;
        drop(redis);
        assert_eq!(run(&clone, commands(&["GET a"])).await, [said("$-1\r\n")]);
        drop(clone);
        crate::common::until("all have hung up", async || servers.iter().all(|s| connected(s) == 0)).await;
    }
}

#[tokio::test]
async fn a_frozen_node_cannot_take_the_places_of_the_others() {
    let (alone, cluster) = (RedisServer::start(), Cluster::without_replicas());
    let (one, many) = (open(&alone.url()), open(&cluster.url()));
    one.settled().await.unwrap();
    many.settled().await.unwrap();
    let of = |node: usize| (0..).map(|n| format!("k{n}")).find(|key| cluster.owner(key.as_bytes()) == node).unwrap();
    let (own, other) = (of(0), of(1));
    alone.freeze();
    cluster.nodes[0].freeze();
    for (redis, busy) in [(&one, 0), (&many, 100)] {
        let ask = || run(redis, commands(&[&format!("GET {own}")]));
        let asked = futures::future::join_all((0..PIPELINES_MAX + 100).map(|_| ask()));
        tokio::pin!(asked);
        assert!((&mut asked).now_or_never().is_none());
        assert_eq!(redis.counters().troubles(Trouble::Busy), busy);
        if busy > 0 {
            let both = [own.as_bytes(), other.as_bytes()];
            assert_eq!(
                redis.read(&both, &Owners(None), 0, &Waits::until(Instant::now())).await,
                [Answer::Failed(Trouble::Busy), Answer::Nothing]
            );
        }
        assert!(asked.await.iter().all(|replies| replies[0].is_err()));
    }
}
