//! What only this crate can ask of a Redis: batches of commands, and what the connections do behind the reads.

use tokio::time::Instant;

use super::*;
use crate::common::RedisServer;

fn open(url: &str) -> Redis {
    Redis::open(&url.parse().unwrap()).unwrap()
}

fn commands(lines: &[&str]) -> Vec<Command> {
    let command = |line: &&str| {
        let mut words = line.split(' ');
        let mut cmd = ::redis::cmd(words.next().unwrap_or_default());
        let words: Vec<&str> = words.collect();
        cmd.arg(&words);
        Command { key: Bytes::copy_from_slice(words[0].as_bytes()), cmd }
    };
    lines.iter().map(command).collect()
}

fn bulk(text: &str) -> Result<Value, Trouble> {
    Ok(Value::BulkString(text.as_bytes().to_vec()))
}

#[tokio::test]
async fn commands_of_one_batch_are_answered_in_order_and_fail_alone() {
    let server = RedisServer::start();
    server.command(&["HSET", "h", "a", "1", "b", "2"]);
    server.command(&["SET", "s", "text"]);
    server.command(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+ping", "+get", "+hmget", "+hgetall"]);
    let redis = open(&server.url().replace("//", "//reader:pw@"));
    let asked = ["HMGET h b nothing a", "GET s", "HGETALL s", "HGETALL nobody", "LRANGE s 0 1", "GET h", "GET s"];
    let replies = redis.run(commands(&asked)).await;
    let hash = Ok(Value::Array(vec![Value::BulkString(b"2".into()), Value::Nil, Value::BulkString(b"1".into())]));
    let (wrong, not_allowed) = (Err(Trouble::WrongType), Err(Trouble::Permission));
    let nobody = Ok(Value::Array(vec![]));
    assert_eq!(replies, [hash, bulk("text"), wrong.clone(), nobody, not_allowed, wrong, bulk("text")]);
    let counters = redis.counters();
    assert_eq!((counters.store_batches.get(), counters.store_keys.get()), (1, 7));
    assert_eq!((counters.troubles(Trouble::WrongType), counters.troubles(Trouble::Permission)), (1, 1));
    assert_eq!(redis.run(vec![]).await, []);
    assert_eq!(counters.store_batches.get(), 1);
}

#[tokio::test]
async fn a_batch_of_commands_to_a_frozen_server_ends_in_time() {
    let server = RedisServer::start();
    let redis = open(&server.url());
    redis.settled().await.unwrap();
    server.freeze();
    let began = Instant::now();
    let mut last = redis.run(commands(&["GET a", "GET b"])).await;
    assert_eq!(last, [Err(Trouble::Timeout), Err(Trouble::Timeout)]);
    assert!(began.elapsed() < READ_LIFE * 2, "{:?}", began.elapsed());
    while last[0] != Err(Trouble::Breaker) {
        assert!(began.elapsed() < READ_LIFE * 20);
        last = redis.run(commands(&["GET a"])).await;
    }
}
