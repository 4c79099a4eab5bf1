//! Positions in the three ordered output streams of a partition.
//!
//! Every writer of a partition computes the same sequence of positions with the same content, so that a reader needs
//! only the highest position of each stream to drop whatever comes again: from a crash, a rebuild or a zombie.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{ids::WebhookId, time::Millis, window::Granularity};

/// Where a record stands in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// A message sent at once.
    None(NonePosition),
    /// A part of a window that outgrew the limits.
    Part(PartPosition),
    /// What was left of a window when it closed.
    Closing(ClosingPosition),
}

/// Position in the stream `none`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonePosition {
    /// Offset of the message in the source partition.
    pub offset: i64,
    /// For whom.
    pub webhook: WebhookId,
}

/// Position in the stream `parts`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartPosition {
    /// The window's start, or the last boundary closed before it was sealed if that is later: the part goes once this
    /// boundary is closed and all windows up to it are sent.
    pub boundary: Millis,
    /// Source offset of the message that no longer fitted and so sealed the part.
    pub sealed_by: i64,
    /// A message can seal one part of each granularity.
    pub granularity: Granularity,
    /// For whom.
    pub webhook: WebhookId,
}

/// Position in the stream `closings`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClosingPosition {
    /// The window.
    pub window: ClosedWindow,
    /// For whom.
    pub webhook: WebhookId,
}

/// A window in the order of closing; all its webhooks share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(Millis, i64, Granularity)", into = "(Millis, i64, Granularity)")]
pub struct ClosedWindow {
    /// End of the window.
    pub boundary: Millis,
    /// Source offset of the first message that the window took.
    pub first_offset: i64,
    /// A message can open one window of each granularity.
    pub granularity: Granularity,
}

impl ClosedWindow {
    /// Comes after all windows of a boundary, those that a rebuild knows only the last messages of included: their first
    /// offsets are not what they were.
    #[must_use]
    pub fn last_of(boundary: Millis) -> Self {
        Self { boundary, first_offset: i64::MAX, granularity: Granularity::Day }
    }

    /// How far closings are done by a state in which windows are open at some boundaries, and one boundary is the last
    /// closed, where this is what was committed as done. If the state has no window of this one's boundary any more, all
    /// of them are; unless it has not come to that boundary yet: a state that is being rebuilt has no windows of it
    /// before.
    #[must_use]
    pub fn done_in(self, open: &BTreeMap<Millis, i64>, last_closed: Option<Millis>) -> Self {
        let has_come = last_closed >= Some(self.boundary);
        if has_come && !open.contains_key(&self.boundary) { Self::last_of(self.boundary) } else { self }
    }
}

impl From<(Millis, i64, Granularity)> for ClosedWindow {
    fn from((boundary, first_offset, granularity): (Millis, i64, Granularity)) -> Self {
        Self { boundary, first_offset, granularity }
    }
}

impl From<ClosedWindow> for (Millis, i64, Granularity) {
    fn from(window: ClosedWindow) -> Self {
        (window.boundary, window.first_offset, window.granularity)
    }
}

impl Position {
    /// The stream's name, as in the record's header.
    #[must_use]
    pub fn stream(&self) -> &'static str {
        match self {
            Self::None(_) => "none",
            Self::Part(_) => "parts",
            Self::Closing(_) => "closings",
        }
    }

    /// Reads the two headers that name a position.
    ///
    /// # Errors
    /// [`PositionError`] with the text that is not a position.
    pub fn parse(stream: &str, text: &str) -> Result<Self, PositionError> {
        match stream {
            "none" => text.parse().map(Self::None),
            "parts" => text.parse().map(Self::Part),
            "closings" => text.parse().map(Self::Closing),
            _ => Err(PositionError(format!("{stream} {text}"))),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None(position) => position.fmt(f),
            Self::Part(position) => position.fmt(f),
            Self::Closing(position) => position.fmt(f),
        }
    }
}

/// A text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position in `none`, `parts` or `closings`")]
pub struct PositionError(pub String);

impl fmt::Display for NonePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.offset, self.webhook)
    }
}

impl fmt::Display for PartPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boundary.0, self.sealed_by, self.granularity, self.webhook)
    }
}

impl fmt::Display for ClosingPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClosedWindow { boundary, first_offset, granularity } = self.window;
        write!(f, "{}/{first_offset}/{granularity}/{}", boundary.0, self.webhook)
    }
}

/// The next field of a position's text, parsed.
fn field<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    fields.next()?.parse().ok()
}

fn webhook<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<WebhookId> {
    WebhookId::parse(fields.next()?).ok()
}

/// Parses with a closure that returns `None` for a malformed text.
fn parse<T>(text: &str, parse: impl FnOnce() -> Option<T>) -> Result<T, PositionError> {
    parse().ok_or_else(|| PositionError(text.to_owned()))
}

impl FromStr for NonePosition {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let mut fields = text.splitn(2, '/');
        parse(text, || Some(Self { offset: field(&mut fields)?, webhook: webhook(&mut fields)? }))
    }
}

impl FromStr for PartPosition {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let mut fields = text.splitn(4, '/');
        parse(text, || {
            Some(Self {
                boundary: Millis(field(&mut fields)?),
                sealed_by: field(&mut fields)?,
                granularity: field(&mut fields)?,
                webhook: webhook(&mut fields)?,
            })
        })
    }
}

impl FromStr for ClosingPosition {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let mut fields = text.splitn(4, '/');
        parse(text, || {
            let window = ClosedWindow {
                boundary: Millis(field(&mut fields)?),
                first_offset: field(&mut fields)?,
                granularity: field(&mut fields)?,
            };
            Some(Self { window, webhook: webhook(&mut fields)? })
        })
    }
}

/// The highest position of each stream among the records of a `bundles` partition that were taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Highest {
    /// In `none`.
    pub none: Option<NonePosition>,
    /// In `parts`.
    pub parts: Option<PartPosition>,
    /// In `closings`.
    pub closings: Option<ClosingPosition>,
}

impl Highest {
    /// Takes a position in. False if it or a higher one was taken before: the record is a repeat.
    pub fn advance(&mut self, position: &Position) -> bool {
        match position {
            Position::None(position) => advance(&mut self.none, position),
            Position::Part(position) => advance(&mut self.parts, position),
            Position::Closing(position) => advance(&mut self.closings, position),
        }
    }
}

fn advance<P: Ord + Clone>(highest: &mut Option<P>, position: &P) -> bool {
    let new = highest.as_ref().is_none_or(|highest| position > highest);
    if new {
        *highest = Some(position.clone());
    }
    new
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_webhook_id_may_hold_the_separator() {
        let position = Position::parse("closings", "1614182400000/7/24h/a/b").unwrap();
        assert_eq!(position.to_string(), "1614182400000/7/24h/a/b");
        assert_eq!(position.stream(), "closings");
    }

    #[test]
    fn a_malformed_position_is_named() {
        let error = Position::parse("parts", "x/1h/wh").unwrap_err();
        assert!(error.to_string().contains("`x/1h/wh`"));
    }

    #[test]
    fn what_comes_again_is_a_repeat_and_streams_do_not_disturb_each_other() {
        let mut highest = Highest::default();
        let none = |offset| Position::parse("none", &format!("{offset}/wh-1")).unwrap();
        let part = |offset| Position::parse("parts", &format!("3600000/{offset}/1h/wh-1")).unwrap();
        assert!(highest.advance(&none(5)));
        assert!(!highest.advance(&none(5)));
        assert!(!highest.advance(&none(4)));
        assert!(highest.advance(&part(4)));
        assert!(highest.advance(&none(6)));
    }

    #[test]
    fn closings_of_a_boundary_are_done_where_a_state_that_has_come_to_it_has_none_left() {
        let closings =
            ClosedWindow { boundary: Millis(200), first_offset: 7, granularity: Granularity::OneHour };
        let (none_open, open) = (BTreeMap::new(), BTreeMap::from([(Millis(200), 5)]));
        assert_eq!(closings.done_in(&none_open, Some(Millis(200))), ClosedWindow::last_of(Millis(200)));
        assert_eq!(closings.done_in(&open, Some(Millis(200))), closings);
        // It is being rebuilt, and the windows of that boundary are still to come.
        assert_eq!(closings.done_in(&none_open, Some(Millis(100))), closings);
        assert_eq!(closings.done_in(&none_open, None), closings);
    }

    proptest! {
        #[test]
        fn positions_read_back(boundary: i64, first_offset: i64, g in 0usize..4, webhook in ".{1,30}") {
            let granularity = Granularity::WINDOWED[g];
            let webhook = WebhookId::parse(&webhook).unwrap();
            let window = ClosedWindow { boundary: Millis(boundary), first_offset, granularity };
            let position = ClosingPosition { window, webhook };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}
