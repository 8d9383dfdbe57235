//! What each fault does to a caller, with a server that echoes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Counts, Fault, Proxy, Share};

/// Echoes whatever comes, one thread a connection; ends with the test's process.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
        }
    });
    address
}

fn proxy() -> Proxy {
    Proxy::start(echo()).unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends and returns what comes back, until as much has come or the connection has ended, and with which error.
fn exchange(stream: &mut TcpStream, sent: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    stream.write_all(sent).unwrap();
    let mut came = vec![];
    let mut buffer = vec![0; 64 << 10];
    while came.len() < sent.len() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => came.extend_from_slice(&buffer[..read]),
            Err(error) => return (came, Some(error.kind())),
        }
    }
    (came, None)
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

/// What nobody has heard within a while that is long for loopback.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let read = stream.read(&mut [0; 1]);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn without_faults_every_byte_passes_and_is_counted() {
    let proxy = proxy();
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut stream = connect(&proxy);
    let (mut to, part) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || to.write_all(&part).unwrap());
    let mut came = vec![0; sent.len()];
    stream.read_exact(&mut came).unwrap();
    writer.join().unwrap();
    assert!(came == sent, "in order");
    let million = 1_000_000;
    eventually("what was passed on is counted", || proxy.counts().reply_bytes == million);
    let counts = proxy.counts();
    let replies = counts.replies;
    let wanted = Counts { connections: 1, open: 1, request_bytes: million, replies, reply_bytes: million, struck: 0 };
    assert_eq!(counts, wanted);
    drop(stream);
    eventually("the connection is gone", || proxy.counts().open == 0);
}

#[test]
fn late_replies_are_late_and_keep_their_order() {
    let proxy = proxy();
    let mut stream = connect(&proxy);
    proxy.inject(Fault::Late { fixed: Duration::from_millis(40), jitter: Duration::from_millis(20) }, Share::ALL);
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(exchange(&mut stream, b"late"), (b"late".to_vec(), None));
        assert!(began.elapsed() >= Duration::from_millis(40));
    }
    proxy.heal();
    proxy.inject(Fault::late(Duration::from_millis(5)), Share::Replies(0.3));
    for n in 0..200u8 {
        stream.write_all(&[n]).unwrap();
        std::thread::yield_now();
    }
    let mut came = [0; 200];
    stream.read_exact(&mut came).unwrap();
    assert!(came.iter().zip(0..200).all(|(came, n)| *came == n), "{came:?}");
}

#[test]
fn a_share_of_replies_is_about_that_share_and_the_same_for_the_same_seed() {
    let struck = |seed| {
        let proxy = Proxy::start_with_seed(echo(), seed).unwrap();
        proxy.inject(Fault::Slices { bytes: 1 }, Share::Replies(0.25));
        let mut stream = connect(&proxy);
        let hit = |_| {
            let before = proxy.counts().struck;
            exchange(&mut stream, b"x");
            proxy.counts().struck > before
        };
        (0..400).map(hit).collect::<Vec<bool>>()
    };
    let of_seven = struck(7);
    let count = of_seven.iter().filter(|hit| **hit).count();
    assert!((60..140).contains(&count), "{count} of 400");
    assert!(of_seven == struck(7) && of_seven != struck(8));
}

#[test]
fn a_share_of_connections_is_spread_evenly_and_strikes_always_the_same() {
    let proxy = proxy();
    let mut streams: Vec<TcpStream> = (0..10)
        .map(|n| {
            let stream = connect(&proxy);
            eventually("it is taken", || proxy.counts().connections > n);
            stream
        })
        .collect();
    proxy.inject(Fault::Slices { bytes: 1 }, Share::Connections(0.5));
    let mut hits = |_| {
        let hit = |stream: &mut TcpStream| {
            let before = proxy.counts().struck;
            exchange(stream, b"x");
            proxy.counts().struck > before
        };
        streams.iter_mut().map(hit).collect::<Vec<bool>>()
    };
    let first = hits(0);
    assert!((4..=6).contains(&first.iter().filter(|hit| **hit).count()), "{first:?}");
    assert!((1..4).map(hits).all(|again| again == first));
}

#[test]
fn who_is_frozen_says_nothing_until_thawed_and_then_everything() {
    let proxy = proxy();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, b"before").0, b"before");
    proxy.inject(Fault::Frozen, Share::ALL);
    stream.write_all(b"during").unwrap();
    assert!(is_silent(&mut stream));
    assert_eq!(proxy.counts().request_bytes, 6);
    proxy.heal();
    let mut came = [0; 6];
    stream.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"during");
}

#[test]
fn a_reply_that_freezes_its_connection_comes_when_it_thaws() {
    let proxy = proxy();
    proxy.inject(Fault::Frozen, Share::Replies(1.0));
    let mut stream = connect(&proxy);
    stream.write_all(b"reply").unwrap();
    eventually("the reply has come to the proxy", || proxy.counts().replies == 1);
    assert!(is_silent(&mut stream));
    proxy.heal();
    let mut came = [0; 5];
    stream.read_exact(&mut came).unwrap();
}

#[test]
fn what_is_in_a_black_hole_stays_there_and_new_connections_do_not() {
    let proxy = proxy();
    let mut stream = connect(&proxy);
    proxy.inject(Fault::BlackHole, Share::ALL);
    stream.write_all(b"lost").unwrap();
    assert!(is_silent(&mut stream));
    proxy.heal();
    stream.write_all(b"also lost").unwrap();
    assert!(is_silent(&mut stream));
    assert_eq!(exchange(&mut connect(&proxy), b"found").0, b"found");
    drop(stream);
    eventually("it ends when its caller leaves", || proxy.counts().open == 0);
}

#[test]
fn a_reset_and_a_half_close_cut_a_reply_where_they_say() {
    let proxy = proxy();
    proxy.inject(Fault::Reset { after_bytes: 3 }, Share::ALL);
    let (came, error) = exchange(&mut connect(&proxy), b"0123456789");
    assert_eq!((&*came, error), (&b"012"[..], Some(ErrorKind::ConnectionReset)));
    proxy.heal();
    proxy.inject(Fault::HalfClose { after_bytes: 4 }, Share::ALL);
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, b"0123456789"), (b"0123".to_vec(), None));
    stream.write_all(b"more").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "an orderly end, whatever else is said");
    proxy.heal();
    let mut whole = connect(&proxy);
    assert_eq!(exchange(&mut whole, b"whole").0, b"whole");
    proxy.cut();
    assert_eq!(whole.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn slices_come_one_at_a_time_and_a_narrow_line_takes_its_time() {
    let proxy = proxy();
    proxy.inject(Fault::Slices { bytes: 1 }, Share::ALL);
    let sent = vec![7; 5_000];
    assert_eq!(exchange(&mut connect(&proxy), &sent), (sent.clone(), None));
    proxy.heal();
    proxy.inject(Fault::Bandwidth { bytes_per_s: 50_000 }, Share::ALL);
    let began = Instant::now();
    assert_eq!(exchange(&mut connect(&proxy), &sent), (sent, None));
    assert!(began.elapsed() >= Duration::from_millis(95), "{:?}", began.elapsed());
}

#[test]
fn when_it_is_dropped_nothing_is_left() {
    let proxy = proxy();
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"x");
    let address = proxy.address();
    drop(proxy);
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn it_starts_and_ends_within_another_runtime() {
    let proxy = proxy();
    proxy.inject(Fault::late(Duration::from_millis(3)), Share::ALL);
    assert_eq!(exchange(&mut connect(&proxy), b"x").0, b"x");
}

#[test]
fn an_upstream_that_is_gone_or_elsewhere_is_told() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let proxy = Proxy::start(gone).unwrap();
    assert!(!matches!(connect(&proxy).read(&mut [0; 1]), Ok(1..)));
    assert_eq!(Proxy::start("10.0.0.1:6379".parse().unwrap()).unwrap_err().kind(), ErrorKind::InvalidInput);
}
