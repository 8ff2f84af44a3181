//! A drill tenant's copy of its input: made, damaged, made good again. Never the file itself.

use std::path::{Path, PathBuf};

use engine::drill::Damage;

use crate::exit::Failure;

/// The file as it is, and the copy that the drill's runs read.
#[derive(Debug, Clone)]
pub(super) struct Input {
    good: PathBuf,
    /// What the runs read.
    pub(super) copy: PathBuf,
}

impl Input {
    /// Copies the file at `good` into `folder`.
    pub(super) fn copied(good: &Path, folder: &Path) -> Result<Self, Failure> {
        if !good.is_file() {
            let message = format!("the input {} is no file, and a drill works on a copy of one", good.display());
            return Err(Failure::usage(message).hint("name a single file in the parameter that `input` names"));
        }
        let name = good.file_name().map_or_else(|| PathBuf::from("input"), PathBuf::from);
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::file(format!("can not make {}", folder.display()), error))?;
        let input = Self { good: good.to_owned(), copy: folder.join(name) };
        input.restore()?;
        Ok(input)
    }

    /// Puts the good one back.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        // Removed first: a copy of a file that is read-only is one, too.
        std::fs::remove_file(&self.copy).ok();
        std::fs::copy(&self.good, &self.copy)
            .map(|_| ())
            .map_err(|error| Failure::file(format!("can not copy {}", self.good.display()), error))
    }

    /// Damages the copy.
    pub(super) fn damage(&self, damage: Damage) -> Result<(), Failure> {
        let failed = |error| Failure::file(format!("can not damage {}", self.copy.display()), error);
        // Whatever an earlier step left of it.
        self.restore()?;
        if damage == Damage::Missing {
            return std::fs::remove_file(&self.copy).map_err(failed);
        }
        let bytes = std::fs::read(&self.copy).map_err(failed)?;
        let damaged = match damage {
            // In the middle of a row, or of whatever the format has.
            Damage::Truncated => bytes[..(bytes.len() / 2).saturating_sub(3)].to_vec(),
            Damage::Swapped => self.rows(&bytes, swapped)?,
            Damage::Scaled(factor) => self.rows(&bytes, |cells| scaled(cells, factor))?,
            Damage::Missing => Vec::new(),
        };
        if damaged == bytes {
            let message = format!("the damage changes nothing of {}", self.copy.display());
            return Err(Failure::usage(message).hint("a fault that leaves its input as it is shows nothing"));
        }
        std::fs::remove_file(&self.copy).map_err(failed)?;
        std::fs::write(&self.copy, damaged).map_err(failed)
    }

    /// The text with each row below its header changed. Quoted cells are for other drills.
    fn rows(&self, bytes: &[u8], change: impl Fn(Vec<&str>) -> String) -> Result<Vec<u8>, Failure> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains(',') && !text.contains('"'));
        let Some(text) = text else {
            let message = format!("{} is no CSV without quotes: its columns can not be damaged", self.copy.display());
            return Err(Failure::usage(message).hint("damage = \"truncated\" or \"missing\" takes any file"));
        };
        let changed = text.lines().enumerate().map(|(at, line)| match at {
            0 => line.to_owned(),
            _ => change(line.split(',').collect()),
        });
        Ok((changed.collect::<Vec<_>>().join("\n") + "\n").into_bytes())
    }
}

fn swapped(mut cells: Vec<&str>) -> String {
    if cells.len() > 1 {
        cells.swap(0, 1);
    }
    cells.join(",")
}

fn scaled(cells: Vec<&str>, factor: f64) -> String {
    let Some((last, rest)) = cells.split_last() else { return String::new() };
    let number = last.parse::<f64>().map_or_else(|_| (*last).to_owned(), |number| (number * factor).to_string());
    rest.iter().copied().chain([number.as_str()]).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_done_to_the_copy_and_undone() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = folder.path().join("sales.csv");
        let text = "sku,day,sold\na,2024-01-01,3\nb,2024-01-01,4\n";
        std::fs::write(&good, text).expect("written");
        let input = Input::copied(&good, &folder.path().join("drill")).expect("copied");
        for (damage, expected) in [
            (Damage::Scaled(100.0), "sku,day,sold\na,2024-01-01,300\nb,2024-01-01,400\n"),
            (Damage::Swapped, "sku,day,sold\n2024-01-01,a,3\n2024-01-01,b,4\n"),
            (Damage::Truncated, &text[..text.len() / 2 - 3]),
        ] {
            input.damage(damage).expect("damaged");
            assert_eq!(std::fs::read_to_string(&input.copy).expect("read"), expected, "{damage:?}");
            input.restore().expect("restored");
            assert_eq!(std::fs::read_to_string(&input.copy).expect("read"), text);
        }
        input.damage(Damage::Missing).expect("gone");
        assert!(!input.copy.exists());
        input.damage(Damage::Truncated).expect("what an earlier step left does not count");
        assert!(input.damage(Damage::Scaled(1.0)).is_err(), "it changes nothing");
        input.restore().expect("back");
        assert_eq!(std::fs::read_to_string(&good).expect("read"), text, "the file itself is as it was");
    }

    #[test]
    fn a_short_file_is_cut_to_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = folder.path().join("short");
        std::fs::write(&good, "ab,c").expect("written");
        let input = Input::copied(&good, &folder.path().join("drill")).expect("copied");
        input.damage(Damage::Truncated).expect("cut");
        assert_eq!(std::fs::read(&input.copy).expect("read"), b"");
        std::fs::write(&good, "").expect("written");
        assert!(input.damage(Damage::Truncated).is_err(), "nothing can not be less");
    }

    #[test]
    fn what_is_no_csv_is_not_taken_for_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = folder.path().join("sales.parquet");
        std::fs::write(&good, [0x50, 0x41, 0x52, 0x31, 0xff, 0x00, 0x50, 0x41, 0x52, 0x31]).expect("written");
        let input = Input::copied(&good, &folder.path().join("drill")).expect("copied");
        assert!(input.damage(Damage::Swapped).is_err());
        input.damage(Damage::Truncated).expect("any file can be cut");
        assert!(Input::copied(folder.path(), &folder.path().join("x")).is_err(), "a folder is no file");
    }
}
