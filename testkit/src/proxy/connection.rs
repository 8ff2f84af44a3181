//! One connection through the proxy: bytes both ways, until somebody closes it or it is cut.
//!
//! Used by the proxy alone, in a task per connection. Bytes from the server pass as they come; those
//! of the client pass message by message, since one of them may be a COMMIT.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{Stage, from_client, is_commit, is_ready, typed};
use super::{CommitFault, Cut, Shared};

/// How long the server's side of a half-open connection stays: longer than any scenario.
const HALF_OPEN: Duration = Duration::from_secs(600);

struct Connection<'a> {
    shared: &'a Shared,
    client: TcpStream,
    server: TcpStream,
    stage: Stage,
    up: BytesMut,
    down: BytesMut,
}

/// What happened on a connection.
enum Woken {
    Cut,
    Client(usize),
    Server(usize),
}

/// How a connection goes on.
enum Flow {
    Goes,
    Ended,
    /// A COMMIT came, and this is to happen to it.
    Commit(CommitFault, Bytes),
}

/// Carries bytes until the end.
pub(super) async fn run(shared: &Shared, client: TcpStream, server: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (up, down) = (BytesMut::with_capacity(1 << 14), BytesMut::with_capacity(1 << 14));
    Connection { shared, client, server, stage: Stage::Opening, up, down }.carry().await
}

impl Connection<'_> {
    async fn carry(mut self) -> io::Result<()> {
        let (mut cuts, mut line) = (self.shared.cuts.subscribe(), self.shared.line.subscribe());
        loop {
            let mut woken = tokio::select! {
                biased;
                Ok(()) = cuts.changed() => Woken::Cut,
                read = self.client.read_buf(&mut self.up) => Woken::Client(read?),
                read = self.server.read_buf(&mut self.down) => Woken::Server(read?),
            };
            while line.borrow_and_update().is_hole && !matches!(woken, Woken::Cut) {
                tokio::select! {
                    biased;
                    Ok(()) = cuts.changed() => woken = Woken::Cut,
                    Ok(()) = line.changed() => {}
                    else => return Ok(()),
                }
            }
            let flow = match woken {
                Woken::Cut => {
                    let cut = *cuts.borrow_and_update();
                    return self.cut(cut).await;
                }
                Woken::Client(0) | Woken::Server(0) => return Ok(()),
                Woken::Client(bytes) => {
                    self.slow(bytes).await;
                    self.upward().await?
                }
                Woken::Server(bytes) => {
                    self.slow(bytes).await;
                    let chunk = self.down.split().freeze();
                    self.pass(&chunk, false).await?
                }
            };
            match flow {
                Flow::Goes => {}
                Flow::Ended => return Ok(()),
                Flow::Commit(fault, message) => return self.commit(fault, &message).await,
            }
        }
    }

    async fn slow(&self, bytes: usize) {
        let line = self.shared.line.borrow().clone();
        let mut wait = line.delay;
        if let Some(rate) = line.bytes_per_second {
            wait += Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)));
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Passes the client's whole messages on.
    async fn upward(&mut self) -> io::Result<Flow> {
        while let Some(message) = from_client(&mut self.up, &mut self.stage) {
            if is_commit(&message)
                && let Some(fault) = self.shared.next_commit()
            {
                return Ok(Flow::Commit(fault, message));
            }
            if let Flow::Ended = self.pass(&message, true).await? {
                return Ok(Flow::Ended);
            }
        }
        Ok(Flow::Goes)
    }

    async fn pass(&mut self, bytes: &Bytes, is_up: bool) -> io::Result<Flow> {
        let allowed = self.shared.allowance(bytes.len());
        let to = if is_up { &mut self.server } else { &mut self.client };
        to.write_all(&bytes[..allowed]).await?;
        if allowed == bytes.len() {
            return Ok(Flow::Goes);
        }
        self.client.set_zero_linger()?;
        self.server.set_zero_linger()?;
        self.shared.has_fired();
        Ok(Flow::Ended)
    }

    /// Does to a COMMIT what was asked for; the connection is over afterwards.
    async fn commit(self, fault: CommitFault, message: &Bytes) -> io::Result<()> {
        let Self { shared, mut client, mut server, .. } = self;
        match fault {
            CommitFault::CutBefore => client.set_zero_linger()?,
            CommitFault::CutAfter => {
                server.write_all(message).await?;
                answer(&mut server).await?;
                client.set_zero_linger()?;
            }
            CommitFault::CutThenForward(wait) => {
                client.set_zero_linger()?;
                drop(client);
                tokio::time::sleep(wait).await;
                server.write_all(message).await?;
                answer(&mut server).await?;
            }
            CommitFault::Hold => {
                server.write_all(message).await?;
                answer(&mut server).await?;
                shared.has_fired();
                // Until the client gives up, or is gone.
                let mut rest = BytesMut::new();
                while client.read_buf(&mut rest).await? > 0 {
                    rest.clear();
                }
                return Ok(());
            }
        }
        shared.has_fired();
        Ok(())
    }

    async fn cut(self, cut: Option<Cut>) -> io::Result<()> {
        self.client.set_zero_linger()?;
        drop(self.client);
        if cut == Some(Cut::HalfOpen) {
            tokio::time::sleep(HALF_OPEN).await;
        }
        self.server.set_zero_linger()
    }
}

/// Reads the server's answer to a query, and drops it.
async fn answer(server: &mut TcpStream) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(message) = typed(&mut buffer) {
            if is_ready(&message) {
                return Ok(());
            }
        }
        if server.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
