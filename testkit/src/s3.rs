//! A real S3 server on loopback over a temporary folder.
//!
//! Called by tests of the artifact store and of the binary. The server is `s3s` on its own thread
//! and runtime, so that a test that blocks does not stop it. It checks signatures and honors
//! `If-None-Match`; requests go wrong only as [`S3Server::faults`] is told.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use engine::artifact::{S3Credentials, S3Options, StoreOptions};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::s3_faults::S3Faults;

const ACCESS_KEY: &str = "headworks-test";
const SECRET_KEY: &str = "headworks-test-secret";
const BUCKET: &str = "headworks";

/// The server; stopped, with its objects, when dropped.
pub struct S3Server {
    address: SocketAddr,
    folder: TempDir,
    faults: S3Faults,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Starts a server with one empty bucket; it accepts connections when this returns.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let files = FileSystem::new(folder.path()).expect("an S3 file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        // Bound here: the kernel queues connections from now on, so there is no moment to wait for.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let (stopped, faults) = (stop.clone(), S3Faults::default());
        let shared = faults.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            let served = runtime.block_on(stopped.run_until_cancelled(serve(listener, service, shared)));
            if let Some(Err(error)) = served {
                panic!("the S3 server stopped: {error}");
            }
        });
        Self { address, folder, faults, stop, thread: Some(thread) }
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &S3Faults {
        &self.faults
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of an artifact store in the server's bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// How to reach it from this process.
    pub fn options(&self) -> StoreOptions {
        let s3 = S3Options {
            endpoint: Some(self.endpoint()),
            credentials: Some(S3Credentials {
                access_key_id: ACCESS_KEY.to_owned(),
                secret_access_key: SECRET_KEY.to_owned(),
                session_token: None,
            }),
            ..S3Options::default()
        };
        StoreOptions { s3, ..StoreOptions::default() }
    }

    /// How to reach it from a child process: environment variables.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// The file behind an object, to damage it.
    pub fn object(&self, prefix: &str, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(Path::new(prefix)).join(key)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed; the test that needed the server has failed by itself.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service, faults: S3Faults) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        let (service, faults) = (service.clone(), faults.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let (service, faults) = (service.clone(), faults.clone());
                async move { faults.answer(&service, request).await }
            });
            // A client that goes away ends its connection, not the server; so does a cut.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}
