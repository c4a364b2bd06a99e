//! `chatify dead-letters`: records that could have no effect, and putting them back.

use super::{cluster_options, print, run, table};
use crate::config::Config;
use crate::http::dto::Rfc3339;
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_domain::{Partition, Position};
use chatify_infrastructure::kafka::KafkaOptions;
use chatify_infrastructure::kafka::dead_letters::{self, DeadLetter, DeadLettersError, Origin, ShownLetter};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;

/// The topic is read from its beginning.
const DEADLINE: Duration = Duration::from_secs(120);

/// `chatify dead-letters …`
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List what was set aside, and why
    List(ListArguments),
    /// Print one record: what is known of it, and its bytes
    Show(ShowArguments),
    /// Put records back at the log's end, when this release can read them
    Replay(ReplayArguments),
}

/// See [`DeadLettersCommand::List`].
#[derive(Clone, Debug, Args)]
pub struct ListArguments {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// See [`DeadLettersCommand::Show`].
#[derive(Clone, Debug, Args)]
pub struct ShowArguments {
    /// Which, as `list` names it: topic/partition/offset
    origin: Origin,
    /// Print nothing but the bytes, all of them
    #[arg(long)]
    raw: bool,
}

/// See [`DeadLettersCommand::Replay`].
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// Which, as `list` names them: topic/partition/offset
    #[arg(required = true)]
    origins: Vec<Origin>,
}

/// Does what was asked.
///
/// # Errors
/// When the brokers do not answer, there is no such record, or it cannot be put back; the profile `embedded` has no such topic.
pub fn run_command(config: &Config, command: &DeadLettersCommand) -> anyhow::Result<()> {
    let instead = "it counts what it cannot read in its `/metrics` and keeps it in its log";
    let options = cluster_options(config, "dead-letters", instead)?.kafka;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    match command {
        DeadLettersCommand::List(asked) => list(&options, clock, asked),
        DeadLettersCommand::Show(asked) => {
            show(&options, clock, asked, config.chat_history_writer.max_payload_log_bytes)
        }
        DeadLettersCommand::Replay(asked) => replay(&options, &clock, asked),
    }
}

fn list(options: &KafkaOptions, clock: Arc<dyn Clock>, asked: &ListArguments) -> anyhow::Result<()> {
    let letters = run(DEADLINE, async {
        match dead_letters::list(options, clock).await {
            // Nothing was ever set aside.
            Err(DeadLettersError::NoTopic { .. }) => Ok(Vec::new()),
            outcome => Ok(outcome?),
        }
    })?;
    let text = if asked.json { as_lines(&letters) } else { as_table(&letters) };
    print(text.as_bytes())
}

fn as_table(letters: &[DeadLetter]) -> String {
    let head = ["origin", "class", "appended", "bytes", "key", "replayed"].map(String::from).to_vec();
    let rows = letters.iter().map(|letter| {
        let replayed = if letter.replayed { "yes" } else { "no" };
        let (size, key) = (letter.size.to_string(), printable(letter.key.as_deref().unwrap_or("-")));
        vec![letter.origin.to_string(), letter.class.clone(), appended(letter), size, key, replayed.into()]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn as_lines(letters: &[DeadLetter]) -> String {
    letters.iter().fold(String::new(), |mut text, letter| {
        let line = json!({
            "origin": letter.origin.to_string(),
            "class": letter.class,
            "appendedAt": letter.appended_at.map(|at| Rfc3339(at).to_string()),
            "bytes": letter.size,
            "key": letter.key,
            "replayed": letter.replayed,
        });
        let _ = writeln!(text, "{line}");
        text
    })
}

fn show(options: &KafkaOptions, clock: Arc<dyn Clock>, asked: &ShowArguments, most: usize) -> anyhow::Result<()> {
    let most = if asked.raw { usize::MAX } else { most };
    let showing = async { Ok(dead_letters::show(options, clock, asked.origin.clone(), most).await?) };
    let shown = run(DEADLINE, showing)?;
    if asked.raw {
        return print(&shown.value);
    }
    print(described(&shown).as_bytes())
}

fn described(shown: &ShownLetter) -> String {
    let letter = &shown.letter;
    let mut text = String::new();
    let key = printable(letter.key.as_deref().unwrap_or("-"));
    let replayed = if letter.replayed { "yes" } else { "no" };
    let _ = writeln!(text, "origin    {}\nclass     {}", letter.origin, letter.class);
    let _ = writeln!(text, "appended  {}\nkey       {key}\nreplayed  {replayed}", appended(letter));
    let _ = writeln!(text, "bytes     {}\n", letter.size);
    text.push_str(&printable(&String::from_utf8_lossy(&shown.value)));
    text.push_str(if shown.cut { "\n… (cut; --raw prints all that there is)\n" } else { "\n" });
    text
}

/// Each is put back by itself: what went before a failure stays, and whoever gives the same list again goes on behind it.
fn replay(options: &KafkaOptions, clock: &Arc<dyn Clock>, asked: &ReplayArguments) -> anyhow::Result<()> {
    for origin in &asked.origins {
        let replaying = async { Ok(dead_letters::replay(options, clock.clone(), origin.clone()).await?) };
        print(told(origin, run(DEADLINE, replaying))?.as_bytes())?;
    }
    Ok(())
}

/// Pods take a record that comes twice within their dedupe window for one; later, everybody may see the message a second time.
const REPEAT: &str = "repeat this within `message_broker.dedupe_window`, or look for the message first";

/// What became of a record, as far as it is certain.
fn told(origin: &Origin, outcome: anyhow::Result<(Partition, Position)>) -> anyhow::Result<String> {
    let error = match outcome {
        Ok((partition, position)) => {
            return Ok(format!("{origin} is at position {} of partition {}\n", position.number(), partition.0));
        }
        Err(error) => error,
    };
    // When the time is up, nobody knows what the brokers did meanwhile.
    let late = error.is::<Elapsed>();
    let state = match error.downcast_ref::<DeadLettersError>() {
        Some(DeadLettersError::AlreadyReplayed(_)) => return Ok(format!("{origin} was put back before\n")),
        Some(DeadLettersError::NotNoted { .. }) => {
            format!("{origin} was put back, and the list does not say so; to note it, {REPEAT}")
        }
        cause if late || matches!(cause, Some(DeadLettersError::Unsure(_))) => {
            format!("it is not known whether {origin} was put back; {REPEAT}")
        }
        Some(_) | None => format!("{origin} was not put back"),
    };
    Err(error.context(state))
}

fn appended(letter: &DeadLetter) -> String {
    letter.appended_at.map_or_else(|| "-".into(), |at| Rfc3339(at).to_string())
}

/// What came from anybody must not steer the operator's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_domain::Timestamp;

    fn letter() -> DeadLetter {
        DeadLetter {
            origin: "chat-events/2/17".parse().expect("an origin"),
            class: "malformed".into(),
            appended_at: Some(Timestamp::from_millis(1_700_000_000_123)),
            key: Some("Channel:a\u{1b}[2J".into()),
            size: 3,
            replayed: false,
        }
    }

    #[test]
    fn what_may_be_back_in_the_log_is_not_said_to_be_missing() {
        let origin = || letter().origin;
        let told = |error: anyhow::Error| told(&origin(), Err(error));
        let done = told(DeadLettersError::AlreadyReplayed(origin()).into()).expect("done, so a list goes on");
        assert_eq!(done, "chat-events/2/17 was put back before\n");
        let late = run(Duration::from_millis(1), std::future::pending::<anyhow::Result<()>>()).expect_err("too late");
        for (error, expected) in [
            (DeadLettersError::NotFound(origin()).into(), "chat-events/2/17 was not put back"),
            (DeadLettersError::Unsure(origin()).into(), "it is not known whether chat-events/2/17 was put back"),
            (late, "it is not known whether chat-events/2/17 was put back"),
        ] {
            let text = told(error).expect_err("no success").to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn letters_are_told_and_cannot_steer_a_terminal() {
        let text = as_table(&[letter()]);
        assert!(
            text.contains("chat-events/2/17  malformed  2023-11-14T22:13:20.123Z      3  Channel:a\u{fffd}[2J"),
            "{text}"
        );
        let line: serde_json::Value = serde_json::from_str(as_lines(&[letter()]).trim()).expect("JSON");
        assert_eq!((&line["origin"], &line["bytes"]), (&json!("chat-events/2/17"), &json!(3)));
        assert_eq!(line["appendedAt"], "2023-11-14T22:13:20.123Z");
        let text = described(&ShownLetter { letter: letter(), value: b"a\x07b".to_vec(), cut: true });
        assert!(text.contains("a\u{fffd}b\n… (cut"), "{text}");
    }
}
