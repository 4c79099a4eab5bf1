//! A window's log becomes one bundle for each webhook that wanted some of its messages.

use bytes::Bytes;

use crate::{
    model::{
        aggregation::{self, Line},
        bundle::{BundleHead, BundleRecord, Origin, Source, window_bundle_id},
        event::Message,
        history::Directory,
        ids::{ChatId, WebhookId, WorkspaceId},
        position::{ClosedWindow, ClosingPosition, PartPosition, Position},
        time::{Millis, body_timestamp},
        window::WindowKey,
    },
    wire::{
        body::{self, Aggregated},
        window_log::{ChatDetails, Frame, LoggedMessage, decode},
    },
};

/// Why a window's content leaves Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// The message at this source offset no longer fitted into the part.
    Sealed {
        /// Source offset of that message.
        by: i64,
        /// The boundary that the part waits for, in its position.
        boundary: Millis,
    },
    /// The window closed.
    Closed(ClosedWindow),
}

/// The content of a window or of a sealed part of it.
#[derive(Debug)]
pub struct WindowContent<'a> {
    /// Which window.
    pub key: &'a WindowKey,
    /// 0 if the window was never cut; else the part's number, from 1.
    pub part: u32,
    /// Why now.
    pub occasion: Occasion,
    /// The log as stored.
    pub log: &'a [u8],
}

/// What a window's content came to.
#[derive(Debug, Default)]
pub struct Bundles {
    /// In the order of the webhooks' ids.
    pub records: Vec<BundleRecord>,
    /// Messages that a webhook wanted at their arrival and that its owner dropped since, a count each.
    pub dropped: u64,
}

/// What decides which bundles a window becomes.
pub struct Bundler<'a> {
    /// Which webhooks want what.
    pub directory: &'a Directory,
    /// Where the messages come from.
    pub source: &'a Source,
    /// Name of the product in the aggregation.
    pub product: &'a str,
}

/// A message of the log with the chat details that came with it.
struct Entry<'a> {
    message: LoggedMessage<'a>,
    chat: usize,
}

impl Bundler<'_> {
    /// Builds the bundles of a window's content.
    ///
    /// # Errors
    /// If the stored log is damaged.
    pub fn bundles(&self, content: &WindowContent<'_>) -> Result<Bundles, String> {
        let (chats, entries) = read(content.log)?;
        let key = content.key;
        let mut bundles = Bundles::default();
        // Most webhooks of a workspace want the same messages: their body is built once.
        let mut last: Option<(Vec<usize>, Bytes)> = None;
        for webhook in self.directory.webhooks_of(&key.workspace) {
            let wanted = self.wanted(webhook, key, &entries, &mut bundles.dropped);
            let Some(&last_arrived) = wanted.last() else {
                continue;
            };
            let body = match &last {
                Some((built_for, body)) if *built_for == wanted => body.clone(),
                _ => self.body(&wanted, &entries, &chats[entries[last_arrived].chat]).into(),
            };
            let head =
                self.head(webhook, content, &entries[wanted[0]], &entries[last_arrived], wanted.len())?;
            bundles.records.push(BundleRecord { head, body: body.clone() });
            last = Some((wanted, body));
        }
        Ok(bundles)
    }

    /// The entries that a webhook wanted and its owner has not dropped since, in the order of arrival.
    fn wanted(
        &self,
        webhook: &WebhookId,
        key: &WindowKey,
        entries: &[Entry<'_>],
        dropped: &mut u64,
    ) -> Vec<usize> {
        let wants = |entry: &Entry<'_>| {
            self.directory.wanted(webhook, &key.workspace, entry.message.arrived)
                == Some(key.window.granularity)
        };
        let mut wanted = Vec::with_capacity(entries.len());
        for (index, _) in entries.iter().enumerate().filter(|(_, entry)| wants(entry)) {
            if self.directory.owner_dropped(webhook, entries[index].message.arrived) {
                *dropped += 1;
            } else {
                wanted.push(index);
            }
        }
        wanted
    }

    fn body(&self, wanted: &[usize], entries: &[Entry<'_>], chat: &ChatDetails<'_>) -> Vec<u8> {
        let mut ordered: Vec<&LoggedMessage<'_>> =
            wanted.iter().map(|index| &entries[*index].message).collect();
        ordered.sort_by_key(|message| message.order());
        let messages: Vec<Message<'_>> = ordered.iter().map(|message| message.message()).collect();
        let lines = messages.iter().map(|message| Line {
            sender: &message.sender.full_name,
            timestamp: message.timestamp,
            text: &message.text,
        });
        let link = aggregation::link(ordered[0].permalink, chat.chat_url);
        body::aggregated(&Aggregated {
            whatsapp_account: chat.account(),
            chat: chat.chat(ordered.iter().any(|message| message.is_new_chat)),
            messages: &messages,
            first_message_timestamp: body_timestamp(messages[0].timestamp),
            last_message_timestamp: body_timestamp(messages[messages.len() - 1].timestamp),
            aggregation: aggregation::html(lines, link, self.product),
        })
    }

    fn head(
        &self,
        webhook: &WebhookId,
        content: &WindowContent<'_>,
        first: &Entry<'_>,
        last: &Entry<'_>,
        messages: usize,
    ) -> Result<BundleHead, String> {
        let WindowKey { window, workspace, chat } = content.key;
        let granularity = window.granularity;
        let webhook_id = webhook.clone();
        let position = match content.occasion {
            Occasion::Sealed { by, boundary } => Position::Part(PartPosition {
                boundary,
                sealed_by: by,
                granularity,
                webhook: webhook_id.clone(),
            }),
            Occasion::Closed(window) => {
                Position::Closing(ClosingPosition { window, webhook: webhook_id.clone() })
            }
        };
        let source_offset = first.message.offset;
        Ok(BundleHead {
            bundle_id: window_bundle_id(webhook, workspace, chat, window, self.source, source_offset),
            webhook_id,
            workspace_id: WorkspaceId::parse(workspace).map_err(|error| format!("workspace id: {error}"))?,
            chat_id: ChatId::parse(chat).map_err(|error| format!("chat id: {error}"))?,
            granularity,
            window_start: Some(window.start),
            part: content.part,
            origin: Origin::Messages { position, source: self.source.clone(), source_offset },
            messages: messages as u32,
            arrived_at: last.message.arrived,
        })
    }
}

fn read(log: &[u8]) -> Result<(Vec<ChatDetails<'_>>, Vec<Entry<'_>>), String> {
    let (mut chats, mut entries) = (Vec::new(), Vec::new());
    for frame in decode(log).map_err(|error| error.to_string())? {
        let message = match frame {
            Frame::ChatV1(chat) => {
                chats.push(chat);
                continue;
            }
            Frame::MessageV1(message) => {
                message.try_into().map_err(|error| format!("a message object in the log: {error}"))?
            }
            Frame::MessageV2(message) => message,
        };
        let chat = chats.len().checked_sub(1).ok_or("a message stands before any chat details")?;
        entries.push(Entry { message, chat });
    }
    Ok((chats, entries))
}
