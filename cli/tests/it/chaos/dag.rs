//! DAGs of the scenarios, as TOML: tasks of kind `command` that write to the ledger.

use super::World;

/// `a` -> `b` -> `c`; `b` waits at the gate `go`. Each has the canary as a secret, and tells it.
pub(crate) fn steps(world: &World) -> String {
    let tell = format!("test ${{#CANARY}} -eq {}; echo \"the canary is $CANARY\"", world.canary().len());
    let gate = format!("{tell} >&2; {}", wait_at(world, "go"));
    let toml = [
        head("steps"),
        task(world, "a", "", &tell),
        task(world, "b", "needs = [\"a\"]", &gate),
        task(world, "c", "needs = [\"b\"]", &tell),
    ]
    .concat();
    toml.replace("shell = true", "shell = true, env = { CANARY = { secret = \"canary\" } }")
}

/// A chain of so many tasks that take no time, each with one artifact. By the seed, attempts have processes
/// of their own or not.
pub(crate) fn chain(world: &World, id: &str, length: usize) -> String {
    links(world, id, length, if world.seed.is_multiple_of(2) { IN_PROCESS } else { INLINE })
}

/// A chain whose attempts are in the worker itself, where its failpoints are.
pub(crate) fn inline_chain(world: &World, id: &str, length: usize) -> String {
    links(world, id, length, INLINE)
}

/// A chain whose attempts have processes of their own, with the worker's failpoints.
pub(crate) fn process_chain(world: &World, id: &str, length: usize) -> String {
    links(world, id, length, IN_PROCESS).replace("shell = true", "shell = true, pass_env = [\"FAILPOINTS\"]")
}

fn links(world: &World, id: &str, length: usize, isolation: &str) -> String {
    let mut toml = head(id);
    for at in 0..length {
        let needs = if at == 0 { String::new() } else { format!("needs = [\"t{}\"]", at - 1) };
        toml.push_str(&task(world, &format!("t{at}"), &format!("{needs}\n{isolation}"), MAKE_ONE));
    }
    toml.replace("shell = true", "shell = true, outputs = [\"out.txt\"]")
}

/// Attempts run in the worker.
pub(crate) const INLINE: &str = "isolation = \"inline\"";
/// Attempts run in processes of their own.
const IN_PROCESS: &str = "isolation = \"process\"";
const MAKE_ONE: &str = "echo made > \"$HEADWORKS_ARTIFACTS/out.txt\"";

/// A DAG's heading.
pub(crate) fn head(id: &str) -> String {
    format!("[dag]\nid = \"{id}\"\n")
}

/// A task that runs `body` between the two lines in the ledger. `more` are keys of the task.
pub(crate) fn task(world: &World, id: &str, more: &str, body: &str) -> String {
    let script = world.ledger.script(body);
    format!("[tasks.{id}]\nkind = \"command\"\n{more}\nwith = {{ program = {}, shell = true }}\n", quoted(&script))
}

/// A body that waits until a gate is open.
pub(crate) fn wait_at(world: &World, gate: &str) -> String {
    format!("while [ ! -e {} ]; do sleep 0.05; done", world.gate(gate).display())
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
