//! One ephemeral cluster: its folder, its server process, and the end of both.
//!
//! The server runs below a shell that waits on our end of a pipe. When the owner drops the cluster,
//! exits, panics, or is killed in any way, the pipe closes and the shell stops the server and
//! removes the folder: nobody has to catch a signal, and nothing is left behind.
//!
//! Ready means that the server said so; there is no polling. Any local user may connect (trust on
//! loopback), so that only test data belongs in here.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::binaries::unprivileged_user;
use crate::{Binaries, PostgresError, Server};

/// A slow machine with a cold disk needs seconds; a minute means that it will never be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at a server that ends or starts.
const LOOK: Duration = Duration::from_millis(20);

/// Another process may take the free port between our look and the server's bind.
const PORT_TRIES: u32 = 5;

/// Postgres's own words, in `lc_messages = C`.
const READY: &str = "database system is ready to accept connections";

/// Runs the server until our end of the pipe closes, then stops it (INT = fast) and removes the
/// folder. If the server ends by itself, stderr closes, which the owner sees. A line is the signal to
/// end the server with, the next line starts it again.
const KEEPER: &str = r#"
"$0" "$@" </dev/null &
server=$!
exec 2>/dev/null
while read -r signal; do
  kill "-$signal" "$server"
  wait "$server"
  read -r go || break
  "$0" "$@" </dev/null &
  server=$!
done
kill -INT "$server"
wait "$server"
cd / && rm -rf "$HEADWORKS_CLUSTER_FOLDER"
"#;

/// How a server is made to end, before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are cut, everything is written.
    Fast,
    /// As after a power failure: the next start recovers from the log.
    Immediate,
    /// `kill -9` of the postmaster; its children notice and go.
    Kill,
}

/// A running cluster; stopped and removed when dropped, or when this process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    keeper: Child,
}

impl Cluster {
    /// Makes a cluster in a temporary folder and waits until it accepts connections. With fsync, as
    /// a user's: tests of durability mean something.
    ///
    /// # Errors
    /// No binaries, no folder that an unprivileged user can reach, or the server's own complaint.
    pub fn start() -> Result<Self, PostgresError> {
        let binaries = Binaries::find()?;
        let user = unprivileged_user();
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let folder = create_folder(user)?;
            match Self::start_in(&folder, &binaries, user) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => {
                    // The keeper may have removed it already.
                    let _ = std::fs::remove_dir_all(&folder);
                    let retry =
                        matches!(&error, PostgresError::Failed { output, .. } if output.contains("could not bind"));
                    last = Some(error);
                    if !retry {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| PostgresError::Failed { program: "postgres".into(), output: String::new() }))
    }

    /// Ends the server and starts it again; returns once it answers.
    ///
    /// # Errors
    /// The keeper is gone, or the server does not come back within a minute.
    pub fn restart(&mut self, how: Shutdown) -> Result<(), PostgresError> {
        let children = self.children()?;
        let signal = match how {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
            Shutdown::Kill => "KILL",
        };
        self.tell(signal)?;
        let deadline = Instant::now() + START_TIMEOUT;
        // A new postmaster refuses to start while children of the old one still use its memory.
        while children.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        self.tell("go")?;
        self.answer("SELECT 1").map(|_| ())
    }

    /// What a server answers that starts, or that has lost a backend and recovers from it.
    fn answer(&self, sql: &str) -> Result<String, PostgresError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.server.query(sql) {
                Ok(text) => return Ok(text),
                Err(error) if Instant::now() > deadline => return Err(error),
                // It has no other way to say that it answers, once its log is drained.
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Process ids of the postmaster's children.
    fn children(&self) -> Result<Vec<u32>, PostgresError> {
        let text = self.answer("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")?;
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    fn tell(&mut self, line: &str) -> Result<(), PostgresError> {
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let told = self.keeper.stdin.as_mut().ok_or_else(gone).and_then(|pipe| writeln!(pipe, "{line}"));
        told.map_err(PostgresError::io("tell the keeper of postgres"))
    }

    /// The server, to make databases in.
    pub fn server(&self) -> &Server {
        &self.server
    }

    fn start_in(folder: &Path, binaries: &Binaries, user: Option<(u32, u32)>) -> Result<Self, PostgresError> {
        let data = folder.join("data");
        init(&data, binaries, user)?;
        let port = free_port()?;
        let mut command = as_user(Path::new("sh"), user);
        command.arg("-c").arg(KEEPER).arg(binaries.program("postgres")).arg("-D").arg(&data);
        for setting in settings(folder, port) {
            command.arg("-c").arg(setting);
        }
        command
            .env("HEADWORKS_CLUSTER_FOLDER", folder)
            // Ctrl-C goes to the whole foreground group; the server is stopped by the pipe, after the tests.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut keeper = command.spawn().map_err(PostgresError::io("start postgres"))?;
        let log = keeper.stderr.take();
        // From here on, dropping the cluster stops what was started.
        let cluster = Self { server: Server::local(port, binaries.clone()), keeper };
        match log {
            Some(log) => wait_until_ready(log).map(|()| cluster),
            None => Ok(cluster),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // An error means that the keeper is gone, which is what we wait for.
        let _ = self.keeper.wait();
    }
}

/// Few connections per test, many tests at once; the rest as Postgres has it.
fn settings(folder: &Path, port: u16) -> [String; 6] {
    [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", folder.display()),
        "max_connections=300".to_owned(),
        "lc_messages=C".to_owned(),
        "logging_collector=off".to_owned(),
    ]
}

fn init(data: &Path, binaries: &Binaries, user: Option<(u32, u32)>) -> Result<(), PostgresError> {
    // Its own files need no sync: a crash in here is a start that failed.
    let output = as_user(&binaries.program("initdb"), user)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
        .arg(data)
        .stdin(Stdio::null())
        .output()
        .map_err(PostgresError::io("run initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(PostgresError::Failed { program: "initdb".to_owned(), output })
}

/// A command that runs as `user`, in a folder that it may enter.
fn as_user(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// Reads the server's log until it is ready; a thread drains the rest, so that the pipe never fills.
fn wait_until_ready(log: ChildStderr) -> Result<(), PostgresError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut seen = String::new();
        let mut waiting = true;
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if waiting {
                seen = seen + &line + "\n";
                if line.contains(READY) {
                    waiting = false;
                    // The receiver may have given up; there is nobody else to tell.
                    let _ = sender.send(Ok(()));
                }
            }
        }
        if waiting {
            let _ = sender.send(Err(seen));
        }
    });
    let failed = |output| PostgresError::Failed { program: "postgres".to_owned(), output };
    match receiver.recv_timeout(START_TIMEOUT) {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed(format!("not ready within {} s", START_TIMEOUT.as_secs()))),
    }
}

/// A new folder that only the server's user can enter.
fn create_folder(user: Option<(u32, u32)>) -> Result<PathBuf, PostgresError> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let name = format!("headworks-postgres-{}-{nanos:x}", std::process::id());
    // A path to a socket holds at most 107 bytes, and `.s.PGSQL.65535` comes behind.
    let temporary = Some(std::env::temp_dir()).filter(|folder| folder.as_os_str().len() < 40);
    let folder = temporary.unwrap_or_else(|| PathBuf::from("/tmp")).join(name);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(PostgresError::io(format!("create {}", folder.display())))?;
    if let Some((user, group)) = user {
        chown(&folder, Some(user), Some(group))
            .map_err(PostgresError::io(format!("hand {} to the server's user", folder.display())))?;
    }
    Ok(folder)
}

fn free_port() -> Result<u16, PostgresError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(PostgresError::io("find a free port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_serves_databases_and_leaves_nothing_behind() {
        let cluster = Cluster::start().expect("a cluster");
        let one = cluster.server().create_database().expect("a database");
        let two = cluster.server().create_database().expect("a database");
        assert_ne!(one.url(), two.url());
        let run = |sql: &str| one.query(sql).expect(sql);
        assert_eq!(run("SHOW fsync"), "on");
        let data = run("SHOW data_directory");
        assert!(Path::new(&data).parent().is_some_and(Path::exists));
        drop((one, two));
        assert_eq!(
            cluster.server().query("SELECT count(*) FROM pg_database WHERE datname LIKE 'test%'").expect("a count"),
            "0",
            "databases are dropped with their handles"
        );
        drop(cluster);
        assert!(!Path::new(&data).exists(), "the folder is gone");
    }

    #[test]
    fn an_unprivileged_server_is_all_that_starts() {
        let cluster = Cluster::start().expect("a cluster");
        let data = cluster.server().query("SHOW data_directory").expect("an answer");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data).expect("the data folder"));
        assert_ne!(owner, 0, "the server does not run as root");
    }

    /// Set in the process that [`a_killed_owner_leaves_nothing_behind`] starts and kills.
    const OWNER: &str = "HEADWORKS_TEST_CLUSTER_OWNER";

    #[test]
    fn a_killed_owner_leaves_nothing_behind() {
        if std::env::var_os(OWNER).is_some() {
            let cluster = Cluster::start().expect("a cluster");
            println!("\nDATA={}", cluster.server().query("SHOW data_directory").expect("an answer"));
            // Until the parent kills this process, which is what the test is about.
            loop {
                std::thread::park();
            }
        }
        let mut owner = Command::new(std::env::current_exe().expect("this test's binary"))
            .args(["--exact", "cluster::tests::a_killed_owner_leaves_nothing_behind", "--nocapture"])
            .env(OWNER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("an owner");
        let output = BufReader::new(owner.stdout.take().expect("piped"));
        let line = output.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("DATA=").map(PathBuf::from));
        let folder = line.expect("a cluster").parent().expect("a folder").to_owned();
        assert!(folder.exists());
        owner.kill().expect("killed");
        owner.wait().expect("gone");
        let deadline = Instant::now() + START_TIMEOUT;
        while folder.exists() {
            assert!(Instant::now() < deadline, "{} is still there", folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
