//! The rows without a gateway: one MGET for the items of a request, over a bare socket, looked at only as far as
//! it takes to know that every row came. With the floor it is what a cache miss cannot beat by much.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::ask::Ask;
use crate::report::{self, Tally};

/// Room for the reply to a request of 100 rows of 50 numbers; it grows when more is wanted.
const BUFFER_BYTES: usize = 128 << 10;

/// `weir-loadtest raw-mget`
#[derive(Args, Debug)]
pub(crate) struct RawMget {
    /// The Redis server.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    to: SocketAddr,
    /// What the gateway's keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "bench:rows@1:")]
    prefix: String,
    #[command(flatten)]
    ask: Ask,
    /// How long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl RawMget {
    /// Asks one MGET after the other on one connection, then reports.
    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let ids = self.ask.ids();
        let commands: Vec<Vec<u8>> = ids.iter().map(|ids| command(&self.prefix, ids)).collect();
        let mut stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let tally = Tally::start()?;
        let until = Instant::now() + Duration::from_secs_f64(self.seconds);
        for (ids, command) in ids.iter().zip(&commands).cycle() {
            let asked = Instant::now();
            if asked >= until {
                break;
            }
            stream.write_all(command).await?;
            tally.answered(asked, rows(&mut stream, &mut buffer, ids.len()).await?);
        }
        report::say(&tally.json());
        Ok(())
    }
}

fn command(prefix: &str, ids: &[String]) -> Vec<u8> {
    let mut out = format!("*{}\r\n$4\r\nMGET\r\n", ids.len() + 1).into_bytes();
    for id in ids {
        let key = format!("{prefix}s{}:{id}", id.len());
        out.extend(format!("${}\r\n{key}\r\n", key.len()).bytes());
    }
    out
}

/// Reads one reply; returns its length.
async fn rows(stream: &mut TcpStream, buffer: &mut Vec<u8>, wanted: usize) -> Result<usize, crate::Failed> {
    let (mut filled, mut parsed, mut seen) = (0, 0, 0);
    // The array's own line, then a line and a row each.
    while seen <= wanted {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err("Redis closed the connection".into()),
            more => filled += more,
        }
        while let Some(end) = next(&buffer[parsed..filled], seen == 0)? {
            parsed += end;
            seen += 1;
        }
    }
    Ok(parsed)
}

/// Length of the next piece of a reply, if it is all there.
fn next(bytes: &[u8], is_first: bool) -> Result<Option<usize>, crate::Failed> {
    let Some(line) = bytes.iter().position(|b| *b == b'\n') else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..line])?.trim_end();
    let number: Option<usize> = text.get(1..).and_then(|n| n.parse().ok());
    match (is_first, text.chars().next(), number) {
        (true, Some('*'), Some(_)) => Ok(Some(line + 1)),
        (false, Some('$'), Some(len)) => Ok(Some(line + 1 + len + 2).filter(|end| *end <= bytes.len())),
        _ => Err(format!("Redis said {text:?}: are the rows loaded?").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_resp() {
        assert_eq!(command("n:", &["ab".into()]), b"*2\r\n$4\r\nMGET\r\n$7\r\nn:s2:ab\r\n");
    }

    #[test]
    fn a_reply_is_taken_piece_by_piece_and_a_missing_row_is_an_error() {
        assert_eq!(next(b"*2\r\n$3\r\n", true).unwrap(), Some(4));
        assert_eq!(next(b"$3\r\na\nb\r\n", false).unwrap(), Some(9));
        assert_eq!(next(b"$3\r\na\nb\r", false).unwrap(), None);
        assert!(next(b"$-1\r\n", false).is_err() && next(b"-ERR no\r\n", true).is_err());
    }
}
