//! `headworks artifacts lineage`: what an artifact was made from, and what was made from it.
//!
//! The walk is the store's; this shows it as a tree for people, as JSON, or as Graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use engine::id::{ArtifactName, InstanceId};
use engine::store::{Lineage, LineageNode, OpenMode};
use serde_json::{Value, json};

use super::{Session, instance, tenant};
use crate::args::{GraphFormat, LineageArgs};
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &LineageArgs) -> Result<(), Failure> {
    let (task, index) = instance(&args.task)?;
    let name = ArtifactName::parse(&args.name).map_err(|error| Failure::usage(error.to_string()))?;
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(&args.run, tenant(args.tenant.as_deref())?.as_ref()).await?;
    let ways = (!args.down, !args.up);
    let lineage = store.lineage((&whose, id), &InstanceId::new(task, index), &name, ways).await?;
    let output = session.output;
    match args.format {
        _ if output.is_json() => output.document(&document(&lineage)),
        GraphFormat::Json => output.document(&document(&lineage)),
        GraphFormat::Dot => output.line(dot(&lineage).trim_end()),
        GraphFormat::Text => {
            let root = &lineage.root;
            output.line(&label(root));
            for (is_wanted, title, is_up) in [(ways.0, "made from", true), (ways.1, "read by, to make", false)] {
                if is_wanted {
                    output.line(&format!("{title}:"));
                    output.line(tree(&lineage, is_up).trim_end());
                }
            }
        }
    }
    if lineage.is_cut {
        output.note(&format!("there is more than the {} artifacts shown", lineage.nodes.len()));
    }
    Ok(())
}

fn label(node: &LineageNode) -> String {
    format!("{} of {} in run {} ({})", node.name, node.instance, node.run, &node.digest.to_string()[..12])
}

fn document(lineage: &Lineage) -> Value {
    let node = |it: &LineageNode| {
        json!({
            "run_id": it.run.to_string(), "task": it.instance.task, "index": it.instance.index, "name": it.name,
            "key": it.key, "digest": it.digest,
        })
    };
    let edges: Vec<_> = lineage.edges.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect();
    json!({
        "root": lineage.root.key, "nodes": lineage.nodes.values().map(node).collect::<Vec<_>>(), "edges": edges,
        "is_cut": lineage.is_cut,
    })
}

fn dot(lineage: &Lineage) -> String {
    let mut text = String::from("digraph lineage {\n  rankdir = LR;\n  node [shape = box];\n");
    for node in lineage.nodes.values() {
        let label = format!("{}\\n{} in {}", node.name, node.instance, &node.run.to_string()[..13]);
        let style = if node.key == lineage.root.key { ", style = bold" } else { "" };
        // Keys and names are made of letters, digits and `_.-/[]`: nothing to escape.
        writeln!(text, "  \"{}\" [label = \"{label}\"{style}];", node.key).ok();
    }
    for (from, to) in &lineage.edges {
        writeln!(text, "  \"{from}\" -> \"{to}\";").ok();
    }
    text + "}\n"
}

/// One side of the root, indented; what was shown already is not followed again.
fn tree(lineage: &Lineage, is_up: bool) -> String {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in &lineage.edges {
        let (near, far) = if is_up { (to, from) } else { (from, to) };
        next.entry(near).or_default().push(far);
    }
    let of = |key: &str| next.get(key).into_iter().flatten().rev().copied();
    let mut text = String::new();
    let mut shown = BTreeSet::from([lineage.root.key.as_str()]);
    // A stack of our own: a chain of runs may be long.
    let mut open: Vec<(&str, usize)> = of(&lineage.root.key).map(|key| (key, 1)).collect();
    while let Some((key, depth)) = open.pop() {
        let Some(node) = lineage.nodes.get(key) else { continue };
        let is_new = shown.insert(key);
        let again = if is_new { "" } else { " (see above)" };
        writeln!(text, "{}{}{again}", "  ".repeat(depth), label(node)).ok();
        if is_new {
            open.extend(of(key).map(|key| (key, depth + 1)));
        }
    }
    if text.is_empty() { "  nothing".to_owned() } else { text }
}
