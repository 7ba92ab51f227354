//! What became of every row, and what is to be done about those that somebody must decide on.

use std::fmt;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A service of the catalog.
    Service,
    /// A plan.
    Plan,
    /// An instance that a platform has.
    Instance,
    /// An instance that a platform gave back.
    Tombstone,
    /// A cache that was made ahead.
    PoolMember,
    /// A webhook that is still to be sent.
    Webhook,
    /// Any other task.
    Task,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Service,
        Self::Plan,
        Self::Instance,
        Self::Tombstone,
        Self::PoolMember,
        Self::Webhook,
        Self::Task,
    ];

    fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Plan => "plan",
            Self::Instance => "instance",
            Self::Tombstone => "given back",
            Self::PoolMember => "made ahead",
            Self::Webhook => "webhook",
            Self::Task => "task",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Plan => "plans",
            Self::Instance => "instances",
            Self::Tombstone => "given back",
            Self::PoolMember => "made ahead",
            Self::Webhook => "webhooks",
            Self::Task => "other tasks",
        }
    }
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is imported.
    Imported,
    /// It was imported before, and stays as it is.
    Known,
    /// There is nothing to be done about it, and why.
    Skipped(String),
    /// Somebody must decide: why, and what can be done.
    NeedsDecision(String),
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about.
    pub kind: Kind,
    /// Its id in the old database.
    pub id: String,
    /// What becomes of it.
    pub fate: Fate,
    /// What is otherwise than it was.
    pub notes: Vec<String>,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// They.
    pub lines: Vec<Line>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What is to be done next, a sentence each.
    pub next: Vec<String>,
    /// Caches that were waited for and are not taken over: the id of each, and what is known of it.
    pub waiting: Vec<(String, String)>,
}

impl Report {
    /// How many rows somebody must decide on.
    pub fn undecided(&self) -> usize {
        let undecided = |line: &&Line| matches!(line.fate, Fate::NeedsDecision(_));
        self.lines.iter().filter(undecided).count()
    }

    fn counts(&self, kind: Kind) -> [usize; 4] {
        let mut counts = [0; 4];
        for line in self.lines.iter().filter(|line| line.kind == kind) {
            let [imported, known, skipped, undecided] = &mut counts;
            *match line.fate {
                Fate::Imported => imported,
                Fate::Known => known,
                Fate::Skipped(_) => skipped,
                Fate::NeedsDecision(_) => undecided,
            } += 1;
        }
        counts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = |line: &Line| format!("{} {}", line.kind.singular(), line.id);
        for line in &self.lines {
            if let Fate::Skipped(why) = &line.fate
                && line.kind != Kind::Task
            {
                writeln!(f, "skipped: {}: {why}", about(line))?;
            }
        }
        for line in &self.lines {
            for note in &line.notes {
                writeln!(f, "note: {}: {note}", about(line))?;
            }
        }
        for line in &self.lines {
            if let Fate::NeedsDecision(why) = &line.fate {
                writeln!(f, "needs a decision: {}: {why}", about(line))?;
            }
        }
        let heads = ["imported", "already", "skipped", "needs a decision"];
        writeln!(
            f,
            "\n{:12} {:>8} {:>8} {:>8} {:>16}",
            "", heads[0], heads[1], heads[2], heads[3]
        )?;
        for kind in Kind::ALL {
            let [imported, known, skipped, undecided] = self.counts(kind);
            writeln!(
                f,
                "{:12} {imported:>8} {known:>8} {skipped:>8} {undecided:>16}",
                kind.plural()
            )?;
        }
        for (id, message) in &self.waiting {
            writeln!(f, "not taken over yet: {id}: {message}")?;
        }
        if self.dry_run {
            writeln!(f, "\nNothing was written: this is what an import would do.")?;
        }
        for next in &self.next {
            writeln!(f, "{next}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_counted_and_what_is_open_is_told_with_its_id() {
        let line = |kind, id: &str, fate| Line {
            kind,
            id: id.to_owned(),
            fate,
            notes: Vec::new(),
        };
        let mut report = Report {
            lines: vec![
                line(Kind::Plan, "p-1", Fate::Imported),
                line(Kind::Instance, "i-1", Fate::Imported),
                line(
                    Kind::Instance,
                    "i-2",
                    Fate::NeedsDecision("it is gone: delete it".to_owned()),
                ),
                line(Kind::Task, "t-1", Fate::Skipped("finished".to_owned())),
            ],
            dry_run: true,
            next: Vec::new(),
            waiting: vec![("i-1".to_owned(), "it waits".to_owned())],
        };
        report.lines[1].notes.push("another port".to_owned());
        let text = report.to_string();
        for part in [
            "note: instance i-1: another port",
            "needs a decision: instance i-2: it is gone: delete it",
            "Nothing was written",
            "not taken over yet: i-1: it waits",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let instances = text.lines().find(|line| line.starts_with("instances")).unwrap();
        assert_eq!(
            instances.split_whitespace().skip(1).collect::<Vec<_>>(),
            ["1", "0", "0", "1"]
        );
        assert!(!text.contains("t-1"), "{text}");
        assert_eq!(report.undecided(), 1);
    }
}
