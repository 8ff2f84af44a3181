//! The values of the secrets that a task refers to, looked up when one of its attempts begins.
//!
//! Called by `attempt`, after the look for a memoized result. Each look-up takes the tenant of the run: a DAG names a
//! secret, never whose. A value comes from `<folder>/<tenant>/<name>`, or else from a variable of the worker. What is
//! wrong with one secret is the outcome of one attempt; a folder that does not answer delays nobody else.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::aside::Aside;
use super::attempt::Environment;
use super::failed;
use crate::dag::{KindCatalog, SecretReference, Task, put_secret, secret_references};
use crate::id::{DRILL_PREFIX, SecretName, TenantId};
use crate::plan::FailureKind;
use crate::registry::RegistryChange;
use crate::secret::{Redactor, SecretText, TOTAL_LIMIT};
use crate::store::Outcome;
use crate::task::ErrorClass;

/// What variables of the worker that hold secrets begin with: `HEADWORKS_SECRET__ACME__TOKEN`.
pub(super) const VARIABLE_PREFIX: &str = "HEADWORKS_SECRET__";

/// The most that a secret may weigh, in bytes: a chain of certificates, and less than a variable may hold.
const LIMIT: u64 = 64 << 10;

/// How long a folder may take: it may be on a network.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where secrets are.
pub(super) struct Secrets {
    folder: Option<PathBuf>,
    /// Files that others may read, and that people were told of.
    told: Mutex<HashSet<PathBuf>>,
    threads: Aside,
}

/// A task's parameters with the values of its secrets.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) with: Value,
    pub(super) values: Vec<SecretText>,
    pub(super) redactor: Redactor,
}

/// Why there is no value.
#[derive(Debug)]
struct Refused {
    /// Whether another try may find it.
    is_passing: bool,
    message: String,
}

/// Puts values in place of the references that the task's own text has. What a template yielded is data.
///
/// # Errors
/// The attempt's outcome: each secret that is missing or can not be read, where it was looked for, how to mend it; or
/// that it was told to stop.
pub(super) async fn resolve(
    environment: &Arc<Environment>,
    (tenant, task): (&TenantId, &Task),
    with: Value,
    cancel: &CancellationToken,
) -> Result<Resolved, Outcome> {
    let places = environment.kinds.kind(&task.kind).map(|kind| kind.secrets).unwrap_or_default();
    let references = secret_references(&task.with, places);
    if references.is_empty() {
        return Ok(Resolved { with, ..Resolved::default() });
    }
    let (shared, owner, tenant) = (Arc::clone(environment), owner(tenant), tenant.clone());
    let find = move || shared.secrets.find(&tenant, references).map(|found| fill_in(with, &found));
    let found = tokio::select! {
        found = environment.secrets.threads.run((&owner, PATIENCE), find) => found,
        () = cancel.cancelled() => {
            let message = "was told to stop while its secrets were looked up".to_owned();
            return Err(failed(FailureKind::Canceled, ErrorClass::System, message));
        }
    };
    let no_answer = |error| Refused::passing(format!("the folder of the secrets can not be read: {error}"));
    let found = found.map_err(no_answer).flatten();
    found.map_err(|refused| {
        let kind = if refused.is_passing { FailureKind::Transient } else { FailureKind::Permanent };
        failed(kind, ErrorClass::System, refused.message)
    })
}

fn fill_in(mut with: Value, found: &[(SecretReference, SecretText)]) -> Resolved {
    let mut values: HashMap<&SecretName, SecretText> = HashMap::new();
    for (reference, value) in found {
        put_secret(&mut with, &reference.path, value.expose());
        values.insert(&reference.name, value.clone());
    }
    let values: Vec<SecretText> = values.into_values().collect();
    Resolved { with, redactor: Redactor::new(&values), values }
}

/// What an attempt reports, without its secrets. Names and keys are the engine's own, and stay as they are.
pub(super) fn redacted(outcome: Outcome, redactor: &Redactor) -> Outcome {
    match outcome {
        Outcome::Succeeded { outputs, registry } => {
            let registry = registry.into_iter().map(|change| redacted_change(change, redactor)).collect();
            Outcome::Succeeded { outputs: redactor.value(outputs), registry }
        }
        Outcome::Failed { kind, class, message } => {
            Outcome::Failed { kind, class, message: redactor.text(&message).into_owned() }
        }
    }
}

fn redacted_change(change: RegistryChange, redactor: &Redactor) -> RegistryChange {
    match change {
        RegistryChange::Register { name, artifact, metadata } => {
            RegistryChange::Register { name, artifact, metadata: redactor.value(metadata) }
        }
        RegistryChange::Decide { name, promoted, reason, decision } => RegistryChange::Decide {
            name,
            promoted,
            reason: redactor.text(&reason).into_owned(),
            decision: redactor.value(decision),
        },
        promote @ RegistryChange::Promote { .. } => promote,
    }
}

impl Secrets {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, told: Mutex::default(), threads: Aside::default() }
    }

    /// All of them, or all that is wrong. Blocks.
    fn find(
        &self,
        tenant: &TenantId,
        references: Vec<SecretReference>,
    ) -> Result<Vec<(SecretReference, SecretText)>, Refused> {
        let (mut found, mut wrong, mut total) = (Vec::new(), Vec::new(), 0);
        let mut asked: HashMap<SecretName, Option<SecretText>> = HashMap::new();
        for reference in references {
            let value = match asked.get(&reference.name) {
                Some(value) => value.clone(),
                None => {
                    let value = self.one(tenant, &reference.name).map_err(|refused| wrong.push(refused)).ok();
                    total += value.as_ref().map_or(0, |value| value.expose().len());
                    asked.insert(reference.name.clone(), value.clone());
                    value
                }
            };
            found.extend(value.map(|value| (reference, value)));
        }
        if total > TOTAL_LIMIT {
            let message = format!("the task's secrets are {total} bytes together; at most {TOTAL_LIMIT}");
            wrong.push(Refused::for_good(message));
        }
        if wrong.is_empty() { Ok(found) } else { Err(Refused::all(&wrong)) }
    }

    fn one(&self, tenant: &TenantId, name: &SecretName) -> Result<SecretText, Refused> {
        let (owner, variable) = (owner(tenant), variable(tenant, name));
        // First of all: one that is mounted meanwhile is looked into by the next try.
        let is_there = self.folder.as_deref().is_none_or(Path::exists);
        let from_file = match &self.folder {
            Some(folder) => self.file(folder, &owner, name)?,
            None => None,
        };
        let found = match (from_file, &variable) {
            (None, Some(variable)) => from_environment(variable)?,
            (found, _) => found,
        };
        let place = match (&self.folder, &variable) {
            (Some(folder), _) => format!("the file {}", folder.join(&owner).join(name.as_str()).display()),
            (None, Some(variable)) => format!("the variable {variable}"),
            (None, None) => format!("[secrets] folder = \"FOLDER\" and the file FOLDER/{owner}/{name}"),
        };
        let value =
            found.ok_or_else(|| missing((self.folder.as_deref(), is_there, &variable), (tenant, name), &place))?;
        if value.is_empty() {
            let message = format!("secret {name} of tenant {tenant} is empty; write its value into {place}, and retry");
            return Err(Refused::for_good(message));
        }
        Ok(SecretText::new(value))
    }

    /// The text of a file below the tenant's folder; `None` if there is none.
    fn file(&self, folder: &Path, owner: &str, name: &SecretName) -> Result<Option<String>, Refused> {
        let (home, path) = (folder.join(owner), folder.join(owner).join(name.as_str()));
        // `below` is what `above` was a moment ago. What is not there may be the rest of a mount that was renewed:
        // then there is such a link, or the folder is another one by now.
        let real = |(above, below): (&Path, &Path), name: &str| match fs::canonicalize(below.join(name)) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let named = above.join(name);
                let is_same =
                    fs::symlink_metadata(&named).is_err() && fs::canonicalize(above).is_ok_and(|it| it == below);
                if is_same { Ok(None) } else { Err(being_replaced(&named)) }
            }
            Err(error) => Err(unreadable(&below.join(name), &error)),
        };
        let root = match fs::canonicalize(folder) {
            Ok(root) => root,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(folder, &error)),
            Err(_) if fs::symlink_metadata(folder).is_ok() => return Err(being_replaced(folder)),
            Err(_) => return Ok(None),
        };
        // Each below the one before, so that all three are of one time.
        let Some(real_home) = real((folder, &root), owner)? else { return Ok(None) };
        let Some(file) = real((&home, &real_home), name.as_str())? else { return Ok(None) };
        let home = real_home;
        // Kubernetes mounts a secret as a link to a link (`name -> ..data/name`, `..data -> ..<date>`), which may lead
        // about within the folder, never out of the tenant's.
        if !home.starts_with(&root) || !home.ends_with(owner) || !file.starts_with(&home) {
            let message = format!(
                "the secret's file {} is a link that leads out of the tenant's folder; put the file itself there",
                path.display()
            );
            return Err(Refused::for_good(message));
        }
        self.tell_if_open(&file, &path);
        read(&file).map(Some)
    }

    /// Warns, once for each `named` path, of a file that others may read. No more: a mount of Kubernetes is readable by
    /// all, and is another file whenever it is renewed.
    fn tell_if_open(&self, file: &Path, named: &Path) {
        let Ok(facts) = fs::metadata(file) else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.mode() & 0o077 != 0 && told.insert(named.to_owned()) {
            tracing::warn!(file = %named.display(), "other users may read this secret; chmod 600 keeps it to the worker");
        }
    }
}

/// Whose folder it is. The tenant of a drill, `drill-<random>-<label>`, has the folder `drill-<label>`: no tenant's
/// file may have such an id, so that a rehearsal never gets at what is real.
fn owner(tenant: &TenantId) -> String {
    let label = tenant.as_str().strip_prefix(DRILL_PREFIX).and_then(|rest| rest.split_once('-'));
    label.map_or_else(|| tenant.to_string(), |(_, label)| format!("{DRILL_PREFIX}{label}"))
}

/// The variable of a secret; `None` for a tenant whose variables could be another's, too: `A_B` would be that of
/// `a-b` and of `a_b`, and `A__B__C` that of `b__c` of `a` and of `c` of `a__b`.
fn variable(tenant: &TenantId, name: &SecretName) -> Option<String> {
    let owner = tenant.as_str();
    let is_unmistakable = !owner.contains('-') && !owner.contains("__") && !owner.ends_with('_');
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    is_unmistakable.then(|| format!("{VARIABLE_PREFIX}{}__{}", upper(owner), upper(name.as_str())))
}

fn from_environment(variable: &str) -> Result<Option<String>, Refused> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    match value.into_string() {
        Ok(value) if value.len() as u64 <= LIMIT => Ok(Some(value)),
        Ok(value) => Err(Refused::for_good(format!("{variable} has {} bytes; a secret at most {LIMIT}", value.len()))),
        Err(_) => Err(Refused::for_good(format!("{variable} is not UTF-8; a secret is text"))),
    }
}

/// Reads the file at a path without links.
fn read(path: &Path) -> Result<String, Refused> {
    let passing = |error: &io::Error| match error.kind() {
        // It was there a moment ago: a mount that is being renewed.
        io::ErrorKind::NotFound => being_replaced(path),
        _ => unreadable(path, error),
    };
    let no_file = || Refused::for_good(format!("the secret's file {} is no regular file", path.display()));
    let seen = fs::symlink_metadata(path).map_err(|error| passing(&error))?;
    if !seen.is_file() {
        return Err(no_file());
    }
    let file = File::open(path).map_err(|error| passing(&error))?;
    let facts = file.metadata().map_err(|error| passing(&error))?;
    if (facts.dev(), facts.ino()) != (seen.dev(), seen.ino()) {
        return Err(being_replaced(path));
    }
    let mut bytes = Vec::new();
    // With room for a line's end, and for one byte too many.
    file.take(LIMIT + 3).read_to_end(&mut bytes).map_err(|error| passing(&error))?;
    let too_large = || Refused::for_good(format!("the secret's file {} is larger than {LIMIT} bytes", path.display()));
    // Not by what the end of the reading leaves of a character.
    if bytes.len() as u64 > LIMIT + 2 {
        return Err(too_large());
    }
    let mut text = String::from_utf8(bytes).map_err(|_| {
        Refused::for_good(format!("the secret's file {} is not UTF-8; a secret is text", path.display()))
    })?;
    if text.ends_with('\n') {
        text.truncate(text.len() - if text.ends_with("\r\n") { 2 } else { 1 });
    }
    if text.len() as u64 > LIMIT {
        return Err(too_large());
    }
    Ok(text)
}

fn being_replaced(path: &Path) -> Refused {
    Refused::passing(format!("the secret's file {} is being replaced", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> Refused {
    let message = format!("the secret's file {} can not be read: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Refused::for_good(format!("{message}; let the user of the worker read it, and retry"))
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => Refused::for_good(message),
        // Links that lead to each other.
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => Refused::for_good(message),
        _ => Refused::passing(message),
    }
}

fn missing(
    (folder, is_there, variable): (Option<&Path>, bool, &Option<String>),
    (tenant, name): (&TenantId, &SecretName),
    place: &str,
) -> Refused {
    let folder = match folder {
        // Who knows what is in it once it is mounted.
        Some(folder) if !is_there => format!("there is no folder {} (is it mounted?)", folder.display()),
        Some(folder) => format!("there is no file {}", folder.join(owner(tenant)).join(name.as_str()).display()),
        None => "[secrets] folder is not set".to_owned(),
    };
    let variable = match variable {
        Some(variable) => format!("the variable {variable} is not set in the worker"),
        None if tenant.is_drill() => "a drill's secrets are its own, and no variables".to_owned(),
        None => "a variable of this tenant could be mistaken for another's".to_owned(),
    };
    let message = format!(
        "secret {name} of tenant {tenant} is missing: {folder}, and {variable}; write its value into {place}, and retry"
    );
    Refused { is_passing: !is_there, message }
}

impl Refused {
    fn for_good(message: String) -> Self {
        Self { is_passing: false, message }
    }

    fn passing(message: String) -> Self {
        Self { is_passing: true, message }
    }

    /// Several as one: what does not mend itself is what people have to hear of.
    fn all(several: &[Self]) -> Self {
        let messages: Vec<_> = several.iter().map(|it| it.message.as_str()).collect();
        Self { is_passing: several.iter().all(|it| it.is_passing), message: messages.join("\n") }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;
    use crate::id::ModelName;

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).expect("an id")
    }

    fn name(name: &str) -> SecretName {
        SecretName::parse(name).expect("a name")
    }

    struct Bed(tempfile::TempDir);

    impl Bed {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let bed = Self(tempfile::tempdir().expect("a folder"));
            for (path, bytes) in files {
                let path = bed.0.path().join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, bytes).expect("written");
            }
            bed
        }

        fn link(&self, target: &str, path: &str) {
            symlink(target, self.0.path().join(path)).expect("linked");
        }

        fn one(&self, of: &str, secret: &str) -> Result<String, (bool, String)> {
            let secrets = Secrets::new(Some(self.0.path().to_owned()));
            let found = secrets.one(&tenant(of), &name(secret));
            found.map(|value| value.expose().to_owned()).map_err(|it| (it.is_passing, it.message))
        }

        fn refused(&self, secret: &str) -> String {
            let (is_passing, message) = self.one("acme", secret).expect_err("refused");
            assert!(!is_passing, "{message}");
            message
        }
    }

    #[test]
    fn a_value_is_the_text_of_the_tenants_file() {
        let bed = Bed::new(&[("acme/token", b"a b\n"), ("acme/crlf", b"x\ny\r\n"), ("beta/token", b"other\n\n")]);
        assert_eq!(bed.one("acme", "token"), Ok("a b".into()));
        assert_eq!(bed.one("acme", "crlf"), Ok("x\ny".into()));
        assert_eq!(bed.one("beta", "token"), Ok("other\n".into()), "one end of a line");
        let (is_passing, message) = bed.one("gamma", "token").expect_err("none of his own");
        let parts = ["secret token of tenant gamma is missing", "gamma/token", "HEADWORKS_SECRET__GAMMA__TOKEN"];
        assert!(!is_passing && parts.iter().all(|part| message.contains(part)), "{message}");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_its_text() {
        let large = vec![b'q'; LIMIT as usize + 1];
        let bed = Bed::new(&[
            ("acme/empty", b"\n"),
            ("acme/bytes", b"qq\xff"),
            ("acme/large", &large),
            ("acme/folder/file", b"qq"),
            ("acme/most", &[&large[1..], b"\r\n"].concat()),
        ]);
        for (secret, part) in [
            ("empty", "is empty"),
            ("bytes", "not UTF-8"),
            ("large", "larger than 65536 bytes"),
            ("folder", "no regular file"),
        ] {
            let message = bed.refused(secret);
            assert!(message.contains(part) && !message.contains("qq"), "{message}");
        }
        assert_eq!(bed.one("acme", "most").map(|value| value.len() as u64), Ok(LIMIT));
    }

    #[test]
    fn links_lead_about_within_a_tenants_folder_and_not_out_of_it() {
        let bed =
            Bed::new(&[("acme/..2026/token", b"acme's"), ("beta/token", b"beta's"), ("..data/gamma/token", b"c")]);
        // As Kubernetes mounts a secret as a tenant's folder.
        bed.link("..2026", "acme/..data");
        bed.link("..data/token", "acme/token");
        assert_eq!(bed.one("acme", "token"), Ok("acme's".into()));
        // And one secret for several tenants.
        bed.link("..data/gamma", "gamma");
        assert_eq!(bed.one("gamma", "token"), Ok("c".into()));
        bed.link("../beta/token", "acme/theirs");
        bed.link("/etc/hostname", "acme/outside");
        bed.link("loop", "acme/loop");
        bed.link("beta", "alias");
        assert!(bed.refused("theirs").contains("leads out of the tenant's folder"));
        assert!(bed.refused("outside").contains("leads out of the tenant's folder"));
        assert!(bed.refused("loop").contains("can not be read"));
        assert!(bed.one("alias", "token").is_err_and(|(_, message)| message.contains("leads out")));
        let pipe = bed.0.path().join("acme/pipe");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().expect("mkfifo runs").success());
        assert!(bed.refused("pipe").contains("no regular file"), "and nobody waits for its writer");
    }

    /// Mounts a folder anew as Kubernetes does: the new one, the link to it, and then the old one goes.
    fn renew(root: &Path, number: usize) {
        let (old, new) = (root.join(format!("..{number}")), root.join(format!("..{}", number + 1)));
        for path in ["acme/token", "token"] {
            fs::create_dir_all(new.join(path).parent().expect("a folder")).expect("made");
            fs::write(new.join(path), path).expect("written");
            fs::set_permissions(new.join(path), fs::Permissions::from_mode(0o644)).expect("readable by all");
        }
        symlink(new.file_name().expect("a name"), root.join("..tmp")).expect("linked");
        fs::rename(root.join("..tmp"), root.join("..data")).expect("turned");
        fs::remove_dir_all(old).ok();
    }

    #[test]
    fn a_mount_that_is_renewed_fails_no_secret_for_good_and_is_warned_of_once() {
        let whole = Bed::new(&[]);
        renew(whole.0.path(), 0);
        whole.link("..data/acme", "acme");
        let each = Bed::new(&[("acme/file", b"")]);
        let home = each.0.path().join("acme");
        renew(&home, 0);
        each.link("..data/token", "acme/token");
        std::thread::scope(|scope| {
            let roots = [whole.0.path().to_owned(), home];
            let renew_all = move || (1..1_000).for_each(|n| roots.iter().for_each(|root| renew(root, n)));
            let renewing = Arc::new(scope.spawn(renew_all));
            for bed in [&whole, &each] {
                let renewing = Arc::clone(&renewing);
                scope.spawn(move || {
                    let secrets = Secrets::new(Some(bed.0.path().to_owned()));
                    while !renewing.is_finished() {
                        let found = secrets.one(&tenant("acme"), &name("token"));
                        assert!(found.as_ref().map_or_else(|refused| refused.is_passing, |_| true), "{found:?}");
                    }
                    secrets.one(&tenant("acme"), &name("token")).expect("it rests");
                    assert_eq!(secrets.told.lock().expect("whole").len(), 1);
                });
            }
        });
    }

    #[test]
    fn a_link_that_leads_nowhere_and_a_folder_that_is_not_there_may_pass() {
        let bed = Bed::new(&[("acme/token", b"value")]);
        bed.link("..data/gone", "acme/gone");
        bed.link("..data/beta", "beta");
        for (of, secret) in [("acme", "gone"), ("beta", "token")] {
            let (is_passing, message) = bed.one(of, secret).expect_err("nothing is there");
            assert!(is_passing && message.contains("is being replaced"), "{message}");
        }
        bed.refused("never");
        let folder = bed.0.path().join("not-mounted");
        let refused = Secrets::new(Some(folder)).one(&tenant("acme"), &name("token")).expect_err("no folder");
        assert!(refused.is_passing && refused.message.contains("there is no folder"), "{}", refused.message);
    }

    #[test]
    fn no_variable_can_be_of_two_tenants() {
        let of = |of: &str, secret: &str| variable(&tenant(of), &name(secret));
        assert_eq!(of("acme_eu", "db-password").as_deref(), Some("HEADWORKS_SECRET__ACME_EU__DB_PASSWORD"));
        assert_eq!(of("a", "b__c").as_deref(), Some("HEADWORKS_SECRET__A__B__C"));
        for mistakable in ["acme-eu", "a__b", "a_", "drill-0123-shop"] {
            assert_eq!(of(mistakable, "c"), None, "{mistakable}");
        }
    }

    #[test]
    fn a_drill_has_a_folder_that_is_no_tenants() {
        assert_eq!(owner(&tenant("acme")), "acme");
        assert_eq!(owner(&tenant("drill-01234567-eu-shop")), "drill-eu-shop");
        let bed = Bed::new(&[("shop/token", b"real"), ("drill-shop/token", b"rehearsal")]);
        assert_eq!(bed.one("drill-01234567-shop", "token"), Ok("rehearsal".into()));
        let (_, message) = bed.one("drill-01234567-other", "token").expect_err("none");
        assert!(
            message.contains("drill-other/token") && message.contains("a drill's secrets are its own"),
            "{message}"
        );
    }

    #[test]
    fn what_is_reported_is_without_it_and_keys_stay() {
        let redactor = Redactor::new(&[SecretText::new("acme-token".into())]);
        let model = ModelName::parse("demand").expect("a name");
        let decide = |text: &str| RegistryChange::Decide {
            name: model.clone(),
            promoted: false,
            reason: format!("no: {text}"),
            decision: json!({"why": [text]}),
        };
        let promote = RegistryChange::Promote { name: model.clone(), expected: Some(1) };
        let registry = vec![decide("acme-token"), promote.clone()];
        let outcome = Outcome::Succeeded { outputs: json!({"a": "<acme-token>"}), registry };
        let Outcome::Succeeded { outputs, registry } = redacted(outcome, &redactor) else { panic!("it succeeded") };
        assert_eq!((outputs, registry), (json!({"a": "<***>"}), vec![decide("***"), promote]));
        let outcome = failed(FailureKind::Transient, ErrorClass::Model, "acme-token!".into());
        let Outcome::Failed { message, .. } = redacted(outcome, &redactor) else { panic!("it failed") };
        assert_eq!(message, "***!");
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let bed = Bed::new(&[("acme/token", b"value")]);
        let places = ["a", "b", "c", "d"]
            .map(|key| SecretReference { path: vec![key.into()], name: name(if key == "d" { "token" } else { key }) });
        let secrets = Secrets::new(Some(bed.0.path().to_owned()));
        let refused = secrets.find(&tenant("acme"), places[..3].to_vec()).expect_err("all are missing");
        assert_eq!(refused.message.lines().count(), 3, "{}", refused.message);
        let found = secrets.find(&tenant("acme"), places[3..].to_vec()).expect("there");
        let resolved = fill_in(json!({"d": {"secret": "token"}, "e": {"secret": "token"}}), &found);
        assert_eq!(resolved.with, json!({"d": "value", "e": {"secret": "token"}}));
        assert_eq!(resolved.redactor.text("its value"), "its ***");
    }
}
