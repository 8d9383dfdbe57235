//! Fault 17: callers who speak HTTP/2 without end or without sense. It costs each its own connection, with a goodbye, and
//! nobody else anything.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, connect, eventually, http_get};
use crate::stored::{route, unhurried};
use crate::wire::{
    CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, POST, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, frames, send,
};

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

fn begun() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Every way to keep a server busy without asking for anything, and what it is told.
fn floods() -> Vec<(&'static str, Vec<u8>, Option<u32>)> {
    let mut resets = begun();
    for stream in (1..20_000).step_by(2) {
        resets.extend(frame(HEADERS, END_HEADERS, stream, POST));
        resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut headers = [begun(), frame(HEADERS, 0, 1, POST)].concat();
    for _ in 0..1_000 {
        // A header of its own in each: x: x….
        let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07], [b'x'; 1_024].as_slice()].concat();
        headers.extend(frame(CONTINUATION, 0, 1, &field));
    }
    let nothing = [begun(), frame(HEADERS, 0, 1, POST), frame(CONTINUATION, 0, 1, &[]).repeat(10_000)].concat();
    let data = [begun(), frame(HEADERS, END_HEADERS, 1, POST), frame(DATA, 0, 1, &[]).repeat(50_000)].concat();
    // Asked, refused, and then sent what nobody waits for: the server remembers few of those that are over.
    let mut late = begun();
    for first in (0..10_000).step_by(200) {
        let streams = || (first..first + 200).map(|n| 2 * n + 1);
        streams().for_each(|stream| late.extend(frame(HEADERS, END_HEADERS, stream, POST)));
        streams().for_each(|stream| late.extend(frame(DATA, 0, stream, &[7; 10])));
    }
    let many = |frame: Vec<u8>| [begun(), frame.repeat(50_000)].concat();
    vec![
        ("rapid reset", resets, Some(ENHANCE_YOUR_CALM)),
        ("endless headers", headers, None),
        ("headers of nothing", nothing, Some(ENHANCE_YOUR_CALM)),
        ("data of nothing", data, Some(ENHANCE_YOUR_CALM)),
        ("late bodies", late, Some(ENHANCE_YOUR_CALM)),
        ("PING", many(frame(PING, 0, 0, &[7; 8])), Some(0)),
        ("answers to no PING", many(frame(PING, 1, 0, &[7; 8])), Some(0)),
        ("SETTINGS", many(frame(SETTINGS, 0, 0, &[])), Some(0)),
        ("PRIORITY", many(frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])), Some(0)),
        ("WINDOW_UPDATE", many(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())), Some(0)),
        ("what nobody knows", many(frame(0xee, 0, 0, &[7; 8])), Some(0)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_costs_the_flooder_its_connection_and_nobody_else_a_call() {
    let gateway = unhurried().start().await;
    let to = gateway.listen();
    let ended = async |why: &str| gateway.metric(&format!("weir_connections_ended_total{{reason=\"{why}\"}} ")).await;
    // A call at a time over one connection, from before the first flood until after the last.
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let caller = tokio::spawn(async move {
        let mut client = connect(to).await;
        let mut calls = 0;
        while stopped.try_recv().is_err() {
            assert_eq!(client.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
            calls += 1;
        }
        calls
    });
    let floods = floods();
    for (name, bytes, wanted) in &floods {
        let before = ended("flood").await + ended("protocol").await;
        let reply = flood(to, bytes).await;
        let goodbyes: Vec<u32> = frames(&reply).iter().filter(|f| f.0 == GOAWAY).map(|f| code(&f.2[4..])).collect();
        assert!(!goodbyes.is_empty(), "{name}: no goodbye in {:?}", frames(&reply));
        if let Some(wanted) = wanted {
            assert!(goodbyes.contains(wanted), "{name}: {goodbyes:?}");
        }
        eventually(name, async || ended("flood").await + ended("protocol").await == before + 1.0).await;
        assert_eq!(gateway.get(route("JFK", &["LAX"])).await.expect("an answer").rows, 1, "{name}");
    }
    assert!(ended("flood").await >= floods.len() as f64 - 1.0);
    stop.send(()).expect("the caller still calls");
    assert!(caller.await.expect("no call failed") > 0);
    eventually("only the test's own connection is left", async || gateway.metric("weir_connections ").await <= 1.0)
        .await;
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flooders_who_read_nothing_cost_no_memory() {
    let gateway = unhurried().spawn();
    let mut client = connect(gateway.listen).await;
    for _ in 0..50 {
        client.get_features(route("JFK", &["LAX"])).await.expect("an answer");
    }
    // From here on the peak is that of the floods: 5 forgets the one before.
    std::fs::write(format!("/proc/{}/clear_refs", gateway.pid()), "5").expect("forget the peak");
    let before = peak_kib(gateway.pid());
    let floods = floods();
    let sent = (0..4).flat_map(|_| &floods).map(|(_, bytes, _)| async {
        let mut stream = TcpStream::connect(gateway.listen).await.expect("connect");
        // It ends when the gateway listens no more.
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(bytes)).await;
        stream
    });
    let flooders = futures::future::join_all(sent).await;
    assert_eq!(client.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
    let grown = peak_kib(gateway.pid()) - before;
    println!("{} flooders: {grown} KiB", flooders.len());
    // Forty floods of a megabyte each. What a connection may hold in its buffers is less than that.
    assert!(grown < 64 << 10, "{grown} KiB");
}

#[tokio::test]
async fn a_stream_too_many_is_refused_and_the_others_go_on() {
    const STREAMS_MAX: u32 = 256;
    let gateway = unhurried().start().await;
    let mut stream = TcpStream::connect(gateway.listen()).await.expect("connect");
    let mut bytes = begun();
    for n in 0..STREAMS_MAX + 10 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, POST));
    }
    stream.write_all(&bytes).await.expect("send");
    let mut reply = Vec::new();
    let refused =
        |reply: &[u8]| frames(reply).iter().filter(|f| f.0 == RST_STREAM && code(f.2) == REFUSED_STREAM).count();
    while refused(&reply) < 10 {
        assert!(stream.read_buf(&mut reply).await.expect("an answer") > 0, "it was closed");
    }
    let settings = frames(&reply).iter().find(|f| f.0 == SETTINGS).expect("settings").2.to_vec();
    let announced = |id: u8| settings.chunks(6).find(|s| s[..2] == [0, id]).map(|s| code(&s[2..]));
    assert_eq!(announced(3), Some(STREAMS_MAX));
    // Bytes of a body that may come before it is read. A frame that is longer than the protocol's default needs a word.
    assert_eq!((announced(4), announced(5).unwrap_or(16 << 10)), (Some(1 << 20), 16 << 10));
    drop(stream);
    assert_eq!(gateway.get(route("JFK", &["LAX"])).await.expect("an answer").rows, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn bodies_that_come_after_their_refusals_are_no_flood() {
    const ROUNDS: u32 = 30;
    const AT_ONCE: u32 = 100;
    let gateway = unhurried().start().await;
    let (mut read, mut write) = TcpStream::connect(gateway.listen()).await.expect("connect").into_split();
    write.write_all(&begun()).await.expect("send");
    let mut reply = Vec::new();
    for round in 0..ROUNDS {
        let streams: Vec<u32> = (round * AT_ONCE..(round + 1) * AT_ONCE).map(|n| 2 * n + 1).collect();
        let heads: Vec<u8> = streams.iter().flat_map(|s| frame(HEADERS, END_HEADERS, *s, POST)).collect();
        write.write_all(&heads).await.expect("send");
        // All have been told that there is nothing at their path before they send what they had on the way.
        let told = |reply: &[u8]| frames(reply).iter().filter(|f| f.0 == RST_STREAM && streams.contains(&f.1)).count();
        while told(&reply) < AT_ONCE as usize {
            assert!(
                read.read_buf(&mut reply).await.expect("an answer") > 0,
                "closed in round {round}: {:?}",
                frames(&reply).last()
            );
        }
        reply.clear();
        let bodies: Vec<u8> = streams.iter().flat_map(|s| frame(DATA, 0, *s, &[7; 1_000])).collect();
        write.write_all(&bodies).await.expect("send");
    }
    write.write_all(&frame(HEADERS, END_HEADERS, 2 * ROUNDS * AT_ONCE + 1, POST)).await.expect("send");
    while !frames(&reply).iter().any(|f| f.0 == HEADERS) {
        assert!(read.read_buf(&mut reply).await.expect("an answer") > 0, "closed in the end");
    }
    drop((read, write));
    gateway.stop().await;
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let gateway = unhurried().start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let garbage: [Vec<u8>; 8] = [
        vec![0; 4_096],
        vec![0xff; 4_096],
        (0..=255).cycle().take(10_000).collect(),
        // A TLS client at a port without TLS.
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 512]].concat(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /\0\0 HTTP/1.1\r\n\r\n".to_vec(),
        // HTTP/2 that begins well: a frame of 16 MiB, and a SETTINGS frame on a stream of its own.
        [preface, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[1; 4_096]].concat(),
        [preface, &[0, 0, 6, 4, 0, 0, 0, 0, 9], &[1; 6]].concat(),
    ];
    for bytes in &garbage {
        let reply = send(gateway.listen(), bytes).await;
        // At most a refusal, or in HTTP/2 the server's settings and its goodbye.
        let text = String::from_utf8_lossy(&reply).into_owned();
        assert!(!text.starts_with("HTTP/1.1 2") && !text.starts_with("HTTP/1.1 5"), "{text}");
        // The connection from before, and a new one.
        assert_eq!(gateway.get(route("JFK", &["LAX"])).await.expect("an answer").rows, 1);
        assert_eq!(http_get(gateway.listen(), "/").await.0, 200);
    }
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

/// Sends a flood and reads on the side; what came back until the gateway closed.
async fn flood(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(to).await.expect("connect").into_split();
    let mut reply = Vec::new();
    let reading = async {
        // A flood that was not read to its end resets the connection: what was said before is what counts.
        let _ = read.read_to_end(&mut reply).await;
    };
    let writing = async {
        let _ = write.write_all(bytes).await;
    };
    let both = async { tokio::join!(reading, writing) };
    assert!(tokio::time::timeout(PATIENCE, both).await.is_ok(), "still open after {PATIENCE:?}");
    reply
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// The most memory that a process had since its peak was forgotten.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}
