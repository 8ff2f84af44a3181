//! DAGs of the scenarios, as TOML: tasks of kind `command` that write to the ledger.

use super::World;

/// `a` -> `b` -> `c`; `b` waits at the gate `go`.
pub(crate) fn steps(world: &World) -> String {
    let gate = wait_at(world, "go");
    [head("steps"), task(world, "a", "", ":"), task(world, "b", "needs = [\"a\"]", &gate), task(world, "c", "needs = [\"b\"]", ":")]
        .concat()
}

/// A chain of so many tasks that take no time.
pub(crate) fn chain(world: &World, id: &str, length: usize) -> String {
    let mut toml = head(id);
    for at in 0..length {
        let needs = if at == 0 { String::new() } else { format!("needs = [\"t{}\"]", at - 1) };
        toml.push_str(&task(world, &format!("t{at}"), &needs, ":"));
    }
    toml
}

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
