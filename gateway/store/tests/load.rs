//! What a loader writes, and what it says when it cannot.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use bytes::Bytes;
use common::RedisServer;
use weir_store::{LOAD_CHUNK_ROWS, LoadCommand, LoadError, LoadReply, Loader, RedisAddress, Trouble};

fn address(url: &str) -> RedisAddress {
    url.parse().unwrap()
}

fn key(n: usize) -> Bytes {
    format!("key{n}").into()
}

/// Writes a field only if it is newer than what is there, as a script can and a command cannot.
const NEWER: &str = "local there = tonumber(redis.call('HGET', KEYS[1], 'at') or '-1')
if there >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'at', ARGV[1], 'value', ARGV[2])
return 1";

#[tokio::test]
async fn any_commands_are_run_in_order_and_answered_one_by_one() {
    let server = RedisServer::start();
    let mut loader = Loader::connect(&address(&server.url())).await.unwrap();
    server.command(&["SET", "key1", "text"]);
    // Several chunks, and not a whole number of them.
    let count = LOAD_CHUNK_ROWS * 2 + 17;
    let mut commands = vec![];
    for n in 0..count {
        commands.push(LoadCommand::new("HSET", &key(n)).arg("f").arg(n.to_string()).arg("g").arg(b"\xff\x00"));
        commands.push(LoadCommand::new("EXPIRE", &key(n)).arg("100"));
    }
    commands.push(LoadCommand::new("HMGET", &key(7)).arg("f").arg("nothing"));
    let replies = loader.run(commands).await.unwrap();
    assert_eq!(replies.len(), count * 2 + 1);
    for (n, pair) in replies.chunks_exact(2).enumerate() {
        match &pair[0] {
            LoadReply::Refused { kind, message } if n == 1 => {
                assert_eq!(*kind, Trouble::WrongType);
                assert!(message.contains("wrong kind of value"), "{message}");
            }
            reply => assert_eq!(*reply, LoadReply::Integer(2), "{n}"),
        }
        assert_eq!(pair[1], LoadReply::Integer(1));
    }
    let list = vec![LoadReply::Text("7".into()), LoadReply::Nothing];
    assert_eq!(replies[count * 2], LoadReply::List(list));
    assert_eq!(server.command(&["HGET", "key2016", "f"]), "2016");
    assert_eq!(server.command(&["TTL", "key2016"]), "100");
    assert_eq!(server.calls("ttl"), 1);
    assert!(loader.run(vec![]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_script_is_taught_again_to_a_server_that_forgot_it() {
    let server = RedisServer::start();
    let mut loader = Loader::connect(&address(&server.url())).await.unwrap();
    let script = loader.script(NEWER).await.unwrap();
    let write = |at: u32| LoadCommand::script(&script, &key(0)).arg(at.to_string()).arg(format!("v{at}"));
    let (done, not_done) = (LoadReply::Integer(1), LoadReply::Integer(0));
    assert_eq!(loader.run(vec![write(5), write(4), write(6)]).await.unwrap(), [done.clone(), not_done, done.clone()]);
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(loader.run(vec![write(7)]).await.unwrap(), [done]);
    assert_eq!(server.command(&["HGET", "key0", "value"]), "v7");
    let error = loader.script("this is no Lua").await.unwrap_err();
    assert!(matches!(&error, LoadError::Refused { message, .. } if message.contains("compiling")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_stands_alone_is_not_waited_for() {
    let mut server = RedisServer::start();
    let mut loader = Loader::connect(&address(&server.url())).await.unwrap();
    server.kill();
    let error = loader.write(&[(key(0), key(1))]).await.unwrap_err();
    let named = format!("127.0.0.1:{}", server.port());
    assert!(matches!(&error, LoadError::Connection { node, .. } if *node == named), "{error:?}");
    assert!(matches!(Loader::connect(&address(&server.url())).await, Err(LoadError::Connection { .. })));
}
