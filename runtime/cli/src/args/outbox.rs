//! The arguments of `colony outbox`.

use clap::Subcommand;
use colony_proto::v1::MessageId;

use super::RetryArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List messages that nobody has acknowledged, oldest first
    List {
        /// Only those to this destination, such as tickets
        #[arg(long = "to", value_name = "DESTINATION")]
        destination: Option<String>,
        /// Acknowledged ones too
        #[arg(long)]
        all: bool,
        /// Most messages; 0 lists all
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Follow messages: those that wait, then the new ones
    Watch {
        /// Only those to this destination, such as tickets
        #[arg(long = "to", value_name = "DESTINATION")]
        destination: Option<String>,
        /// Begin after this cursor, one that an earlier watch printed
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Say that messages were delivered
    Ack {
        /// Their ids, EFFECT_KEY#INDEX as list and watch print them
        #[arg(required = true, value_parser = message_id)]
        ids: Vec<MessageId>,
        #[command(flatten)]
        retry: RetryArgs,
    },
}

/// An id as [`crate::client::outbox`] prints it.
fn message_id(text: &str) -> Result<MessageId, String> {
    let read = || {
        let (key, index) = text.rsplit_once('#')?;
        Some((key, index.parse().ok()?))
    };
    match read() {
        Some((key, index)) if !key.is_empty() => Ok(MessageId {
            effect_key: key.to_owned(),
            index,
        }),
        _ => Err("write EFFECT_KEY#INDEX".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_key_and_an_index() {
        let id = message_id("task/3/abc/0#12").expect("an id");
        assert_eq!((id.effect_key.as_str(), id.index), ("task/3/abc/0", 12));
        for bad in ["", "key", "#0", "key#", "key#-1"] {
            assert!(message_id(bad).is_err(), "{bad}");
        }
    }
}
