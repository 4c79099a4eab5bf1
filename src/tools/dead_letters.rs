//! Lists and shows what could not be processed, and publishes it again.

mod letter;
mod redrive;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, bail, ensure};

use self::letter::{Letter, Letters, readable};
use super::{
    say,
    table::{headings, table},
};
use crate::config::{DeadLettersCommand, LetterPlace, ListCommand, ShowCommand};

/// Does what it is told.
///
/// # Errors
/// If Kafka can't be asked, or nothing fits what was asked for.
pub async fn run(command: DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(command) => list(command).await,
        DeadLettersCommand::Show(command) => show(command).await,
        DeadLettersCommand::Redrive(command) => redrive::run(command).await,
    }
}

async fn list(command: ListCommand) -> anyhow::Result<()> {
    let ListCommand { kafka, filter, limit, output } = command;
    let letters = Letters::new(&kafka).await?;
    let filter = letters.filter(filter)?;
    // By time, and only the newest are kept.
    let (mut newest, mut count) = (BTreeMap::new(), 0_u64);
    letters
        .read(|letter| {
            if filter.lets_pass(&letter.head) {
                count += 1;
                newest.insert((letter.head.at, letter.head.partition, letter.head.offset), letter.head);
                if newest.len() > limit as usize {
                    newest.pop_first();
                }
            }
        })
        .await?;
    if output.json {
        return say(&serde_json::to_string_pretty(&newest.values().collect::<Vec<_>>())?);
    }
    let rows = newest.values().map(|head| {
        vec![
            head.place(),
            head.at.to_string(),
            head.reason.clone(),
            head.source(),
            readable(head.detail.as_bytes()),
        ]
    });
    let head = headings(["PLACE", "AT", "REASON", "SOURCE", "DETAIL"]);
    say(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    say(&format!("\n{} of {count} dead letters", newest.len()))
}

async fn show(command: ShowCommand) -> anyhow::Result<()> {
    let ShowCommand { kafka, place, raw } = command;
    let letters = Letters::new(&kafka).await?;
    let Some(letter) = find(&letters, &place).await? else {
        bail!(
            "no dead letter is, or came from, `{}`; `bundlehook dead-letters list` shows the places",
            named(&place)
        );
    };
    if raw {
        let value = letter.value.as_deref().context("the record has no value")?;
        let mut out = io::stdout().lock();
        return out.write_all(value).and_then(|()| out.flush()).context("failed to write to standard output");
    }
    let Letter { head, key, value } = &letter;
    let shown = |bytes: Option<&Vec<u8>>| bytes.map_or_else(|| "none".to_owned(), |bytes| readable(bytes));
    let size = value.as_ref().map_or_else(String::new, |value| {
        let form = if std::str::from_utf8(value).is_ok() { "" } else { ", not UTF-8" };
        format!(" ({} bytes{form})", value.len())
    });
    let rows = [
        ("place", head.place()),
        ("at", head.at.to_string()),
        ("reason", head.reason.clone()),
        ("detail", readable(head.detail.as_bytes())),
        ("source", head.source()),
        ("arrived at", head.arrived_at.to_string()),
        ("key", shown(key.as_ref())),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    say(&format!("{}\nvalue{size}\n{}", table(&rows), shown(value.as_ref())))
}

/// The first letter at a place.
async fn find(letters: &Letters, place: &LetterPlace) -> anyhow::Result<Option<Letter>> {
    ensure!(
        place.source.is_some() || place.partition < letters.partitions(),
        "`{}` has {} partitions",
        letters.topic(),
        letters.partitions()
    );
    let mut found = None;
    letters
        .read(|letter| {
            if found.is_none() && letters.is_at(&letter.head, place) {
                found = Some(letter);
            }
        })
        .await?;
    Ok(found)
}

/// A place as it was given.
fn named(place: &LetterPlace) -> String {
    let LetterPlace { source, partition, offset } = place;
    source
        .as_ref()
        .map_or_else(|| format!("{partition}/{offset}"), |topic| format!("{topic}/{partition}/{offset}"))
}
