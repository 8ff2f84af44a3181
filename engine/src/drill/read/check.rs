//! What a drill expects, read: one table of `[[expect]]`, one [`Check`].

use super::{MOST, Names, id, index, read_model, required_text, task};
use crate::dag::Diagnostic;
use crate::dag::json::to_json;
use crate::dag::read::{Section, Sink};
use crate::drill::{ALERTS, Check, Expectation};
use crate::id::{ArtifactName, InstanceId, TaskId};

pub(super) fn read_expectation(section: &Section<'_, '_>, names: &Names, sink: &mut Sink<'_>) -> Option<Expectation> {
    const WORDS: [&str; 12] = [
        "state",
        "task",
        "attempts",
        "reused",
        "same_artifacts",
        "whole",
        "output",
        "champion",
        "unchanged",
        "said",
        "alert",
        "timing",
    ];
    section.require("that", "say what has to hold: that = \"state\"", sink);
    let word = section.one_of("that", &WORDS, sink)?;
    let more: &[&str] = match word {
        "state" => &["run", "is"],
        "task" => &["run", "task", "index", "is", "attempts", "generation", "reason"],
        "attempts" => &["run", "attempts"],
        "reused" => &["run", "from", "tasks"],
        "same_artifacts" => &["run", "as", "names"],
        "whole" => &["run"],
        "output" => &["run", "output", "is"],
        "champion" => &["model", "version"],
        "unchanged" => &["since"],
        "said" => &["step", "text"],
        "alert" => &["kind", "is"],
        _ => &["detected_within", "recovered_within"],
    };
    section.allow(&[&["name", "that", "after", "tenant"], more].concat(), sink);
    let name = required_text(section, "name", "say in a sentence what has to hold", sink);
    let (after, tenant) = (names.named(section, "after", false, sink), names.tenant(section, sink));
    let check = read_check(word, section, names, sink)?;
    Some(Expectation { name: name?.0, after, tenant, check })
}

fn read_check(word: &str, section: &Section<'_, '_>, names: &Names, sink: &mut Sink<'_>) -> Option<Check> {
    Some(match word {
        "state" => {
            let (state, _) = required_text(section, "is", "name the state: is = \"succeeded\"", sink)?;
            Check::State { run: names.run(section, sink)?, state }
        }
        "task" => read_task_check(section, names, sink)?,
        "attempts" => {
            section.require("attempts", "say how many: attempts = 1", sink)?;
            Check::Attempts { attempts: section.integer("attempts", 0..=MOST, sink)?, run: names.run(section, sink)? }
        }
        "reused" => Check::Reused {
            tasks: section
                .texts("tasks", sink)
                .into_iter()
                .filter_map(|(it, at)| id(TaskId::parse(it), at, sink))
                .collect(),
            from: names.named(section, "from", true, sink)?,
            run: names.run(section, sink)?,
        },
        "same_artifacts" => Check::SameArtifacts {
            names: section
                .texts("names", sink)
                .into_iter()
                .filter_map(|(it, at)| id(ArtifactName::parse(it), at, sink))
                .collect(),
            other: names.named(section, "as", true, sink)?,
            run: names.run(section, sink)?,
        },
        "whole" => Check::Whole { run: names.run(section, sink)? },
        "output" => {
            let node = section.require("is", "say what the output has to be", sink)?;
            let (path, _) = required_text(section, "output", "name the output: output = \"promote.promoted\"", sink)?;
            Check::Output { run: names.run(section, sink)?, path, value: to_json("is", node, sink) }
        }
        "champion" => {
            section.require("version", "say which version: version = 1; 0 = none", sink)?;
            let version = section.integer("version", 0..=1_000_000, sink)?;
            Check::Champion { model: read_model(section, sink)?, version: u32::try_from(version).ok()? }
        }
        "unchanged" => {
            section.require("since", "name the step since which nothing may have changed", sink)?;
            Check::Unchanged { since: names.named(section, "since", false, sink)? }
        }
        "said" => {
            section.require("step", "name the step", sink)?;
            let (text, _) = required_text(section, "text", "say what its command has to print", sink)?;
            Check::Said { step: names.named(section, "step", false, sink)?, text }
        }
        "alert" => {
            section.require("kind", "say which alert: kind = \"deadline_missed\"", sink)?;
            section.require("is", "say whether it is there: is = \"raised\" or \"none\"", sink)?;
            let kind = section.one_of("kind", &ALERTS, sink)?;
            Check::Alert { kind, is_raised: section.one_of("is", &["raised", "none"], sink)? == "raised" }
        }
        _ => read_timing(section, sink)?,
    })
}

fn read_task_check(section: &Section<'_, '_>, names: &Names, sink: &mut Sink<'_>) -> Option<Check> {
    if ["attempts", "generation", "reason"].iter().all(|key| section.get(key).is_none()) {
        section.require("is", "say what of the task has to hold: is, attempts, generation or reason", sink)?;
    }
    Some(Check::Task {
        state: section.text("is", sink).map(|(text, _)| text.to_owned()),
        attempts: section.integer("attempts", 0..=MOST, sink),
        generation: section.integer("generation", 1..=MOST, sink),
        reason: section.text("reason", sink).map(|(text, _)| text.to_owned()),
        instance: InstanceId::new(task(section, sink)?, index(section, sink)),
        run: names.run(section, sink)?,
    })
}

fn read_timing(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Check> {
    const KEYS: [&str; 2] = ["detected_within", "recovered_within"];
    if KEYS.iter().all(|key| section.get(key).is_some()) {
        sink.push(
            Diagnostic::error("drill::bad_value", section.key_span(KEYS[1]), "an expectation has one limit")
                .label("the second one")
                .help("write an [[expect]] for each of them"),
        );
        return None;
    }
    if section.get(KEYS[1]).is_some() {
        return section.duration(KEYS[1], sink).map(Check::RecoveredWithin);
    }
    section.require(KEYS[0], "write detected_within or recovered_within", sink)?;
    section.duration(KEYS[0], sink).map(Check::DetectedWithin)
}
