//! A layer in front of the S3 server that makes requests go wrong, each in a way that real ones do.
//!
//! Told by a test through [`S3Server::faults`](crate::S3Server::faults); faults are used up in order, one per
//! request that they fit. Whether something was written before the error is the point of most of them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use s3s::service::S3Service;
use s3s::{Body, HttpRequest, HttpResponse};
use tokio::sync::watch;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Fault {
    /// A put is answered with this status (500, 503, 409), and nothing was written.
    RefusePut(u16),
    /// A put is carried out, and answered with this status.
    FailAfterPut(u16),
    /// A put is carried out and never answered.
    HangAfterPut,
    /// The connection ends in the middle of a put's body.
    CutPut,
    /// The connection ends in the middle of the body that a get asked for.
    CutGet,
}

impl S3Fault {
    fn fits(self, method: &Method) -> bool {
        if self == Self::CutGet { method == Method::GET } else { method == Method::PUT }
    }
}

/// The switch; clones share it.
#[derive(Debug, Clone, Default)]
pub struct S3Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<VecDeque<S3Fault>>,
    fired: watch::Sender<u64>,
}

impl S3Faults {
    /// The next `count` requests that `fault` fits go wrong.
    pub fn inject(&self, fault: S3Fault, count: usize) {
        self.queue().extend(std::iter::repeat_n(fault, count));
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.queue().clear();
    }

    /// Faults that are not used up.
    pub fn left(&self) -> usize {
        self.queue().len()
    }

    /// Returns once `count` requests have gone wrong since the start.
    ///
    /// # Panics
    /// The server is gone.
    pub async fn until_fired(&self, count: u64) {
        let mut fired = self.0.fired.subscribe();
        fired.wait_for(|now| *now >= count).await.expect("the switch outlives this call");
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<S3Fault>> {
        self.0.queue.lock().expect("nobody panics while holding it")
    }

    fn next(&self, method: &Method) -> Option<S3Fault> {
        let mut queue = self.queue();
        let at = queue.iter().position(|fault| fault.fits(method))?;
        queue.remove(at)
    }

    /// Answers a request, well or badly. An error ends the connection.
    pub(crate) async fn answer(
        &self,
        service: &S3Service,
        request: http::Request<Incoming>,
    ) -> io::Result<HttpResponse> {
        let request: HttpRequest = request.map(Body::from);
        let Some(fault) = self.next(request.method()) else { return call(service, request).await };
        let outcome = match fault {
            S3Fault::RefusePut(status) => {
                // Read, as a server does that refuses: otherwise the client sees a reset.
                request.into_body().collect().await.map_err(io::Error::other)?;
                status_only(status)
            }
            S3Fault::FailAfterPut(status) => {
                call(service, request).await?;
                status_only(status)
            }
            S3Fault::HangAfterPut => {
                call(service, request).await?;
                self.fired();
                return std::future::pending().await;
            }
            S3Fault::CutPut => {
                let mut body = request.into_body();
                body.frame().await;
                Err(cut())
            }
            S3Fault::CutGet => halved(call(service, request).await?).await,
        };
        self.fired();
        outcome
    }

    fn fired(&self) {
        self.0.fired.send_modify(|count| *count += 1);
    }
}

async fn call(service: &S3Service, request: HttpRequest) -> io::Result<HttpResponse> {
    service.call(request).await.map_err(|error| io::Error::other(format!("{error:?}")))
}

fn status_only(status: u16) -> io::Result<HttpResponse> {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    Ok(response)
}

/// The response with its headers, half of its body, and then nothing.
async fn halved(response: HttpResponse) -> io::Result<HttpResponse> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let frames: [io::Result<Frame<Bytes>>; 2] = [Ok(Frame::data(half)), Err(cut())];
    Ok(HttpResponse::from_parts(parts, Body::http_body_unsync(StreamBody::new(stream::iter(frames)))))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose")
}
