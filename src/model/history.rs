//! The history of settings and states: which webhooks want a message, decided by what was in force at its arrival.
//!
//! Every process reads the same two topics, so every process, and every rebuild, decides alike.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    ids::{WebhookId, WorkspaceId},
    time::Millis,
    webhook::{Activation, Webhook},
    window::Granularity,
};

/// A change of settings counts from this long after the broker's timestamp of its record.
pub const COUNTS_AFTER: Duration = Duration::from_secs(5);

/// How long bundles of a webhook that the system disabled are collected and held.
pub const HOLD: Duration = Duration::from_hours(7 * 24);

/// Where a record of `webhook-settings` or `webhook-states` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The broker's timestamp.
    pub at: Millis,
    /// Its offset.
    pub offset: i64,
}

/// What the system and the commands decide about a webhook (topic `webhook-states`).
#[derive(Debug, Clone)]
pub enum State {
    /// Its last enabling, kept since compaction removes the records that show it; none: this record itself enables it.
    Activation(Option<Activation>),
    /// The system disabled it.
    Disabled(Disabled),
    /// Bundles whose last message arrived before this are dropped.
    Cut(Millis),
    /// What compaction may have taken from `webhook-settings`, although it is in force.
    InForce(InForce),
}

/// The settings in force where the latest record of `webhook-settings` is unusable, or the end of what stood here before.
#[derive(Debug, Clone)]
pub struct InForce {
    /// Where their own record stood.
    pub since: Place,
    /// None: the webhook was deleted there.
    pub settings: Option<Box<Webhook>>,
}

/// What a state is about: a tombstone takes the state of a kind back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// [`State::Activation`].
    Activation,
    /// [`State::Disabled`].
    Disabled,
    /// [`State::Cut`].
    Cut,
    /// [`State::InForce`].
    InForce,
}

/// A disabling by the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disabled {
    /// It counts only for this activation.
    pub activation: Activation,
    /// When.
    pub at: Millis,
}

/// One version of a webhook's settings.
#[derive(Debug, Clone)]
struct Change {
    /// Where its record stands, or stood.
    place: Place,
    counts_from: Millis,
    /// None: deleted.
    settings: Option<Arc<Webhook>>,
}

impl Change {
    fn is_on(&self) -> bool {
        self.settings.as_ref().is_some_and(|webhook| webhook.enabled)
    }
}

/// What is known of one webhook.
#[derive(Debug, Clone, Default)]
struct WebhookHistory {
    changes: Vec<Change>,
    activation: Option<Activation>,
    /// The activation is that of the first record that is left, which need not be the one that enabled it.
    activation_is_a_guess: bool,
    /// The activation that `webhook-states` holds, by its latest record.
    stored_activation: Option<Activation>,
    disabled: Option<Disabled>,
    cut: Option<Millis>,
    /// Offset of the last record that was refused.
    refused: Option<i64>,
    /// What `webhook-states` holds as in force: the offset that it names, and whether it is the end of a webhook.
    stored_in_force: Option<(i64, bool)>,
}

impl WebhookHistory {
    fn at(&self, arrived: Millis) -> Option<&Arc<Webhook>> {
        let change = self.changes.iter().rev().find(|change| change.counts_from <= arrived)?;
        change.settings.as_ref()
    }

    fn latest(&self) -> Option<&Arc<Webhook>> {
        self.changes.last()?.settings.as_ref()
    }

    /// The disabling that counts for the present activation.
    fn disabled(&self) -> Option<Disabled> {
        self.disabled.filter(|disabled| Some(disabled.activation) >= self.activation)
    }

    fn change(&mut self, place: Place, settings: Option<Arc<Webhook>>) {
        let was_on = self.changes.last().is_some_and(|last| {
            last.is_on()
                && last.settings.as_ref().map(|webhook| &webhook.workspace_id)
                    == settings.as_ref().map(|webhook| &webhook.workspace_id)
        });
        let first = self.changes.is_empty();
        let same = self.changes.last().is_some_and(|last| {
            last.settings.as_ref().map(|webhook| webhook.fingerprint)
                == settings.as_ref().map(|webhook| webhook.fingerprint)
        });
        if same {
            // Who edited it may differ.
            if let Some(last) = self.changes.last_mut() {
                last.settings = settings;
            }
            return;
        }
        // Brokers' clocks may step back when a leader changes; the order of the log stands.
        let floor = self.changes.last().map_or(Millis(i64::MIN), |last| last.counts_from);
        let change = Change { place, counts_from: (place.at + COUNTS_AFTER).max(floor), settings };
        let turns_on = change.is_on() && !was_on;
        // The first record that is left after compaction need not be the one that enabled it.
        if turns_on && !(first && self.stored_activation.is_some()) {
            let activation = Activation { at: place.at.0, topic: 0, offset: place.offset };
            self.activation = self.activation.max(Some(activation));
            self.activation_is_a_guess = first;
        }
        self.changes.push(change);
    }

    /// Takes in a change that is read out of its turn, unless it is known.
    fn restore(&mut self, place: Place, settings: Option<Arc<Webhook>>) {
        if self.changes.iter().any(|change| change.place.offset == place.offset) {
            return;
        }
        let was_known = self.activation.is_some() && !self.activation_is_a_guess;
        if self.activation_is_a_guess {
            self.activation = None;
        }
        let mut changes: Vec<_> =
            self.changes.drain(..).map(|change| (change.place, change.settings)).collect();
        let at = changes.partition_point(|(known, _)| known.offset < place.offset);
        changes.insert(at, (place, settings));
        for (place, settings) in changes {
            self.change(place, settings);
        }
        self.activation_is_a_guess &= !was_known;
    }

    /// What has to be stored as in force, with the settings whose webhook it is about: if the latest record is refused,
    /// compaction takes the one that is in force away; if a webhook is deleted that is stored as in force, it takes the
    /// record that shows the deletion away some day.
    fn unstored_in_force(&self) -> Option<(Arc<Webhook>, InForce)> {
        let last = self.changes.last()?;
        let about = self.changes.iter().rev().find_map(|change| change.settings.clone())?;
        let offset = last.place.offset;
        let is_due = match &last.settings {
            Some(_) => self.refused > Some(offset) && self.stored_in_force != Some((offset, false)),
            None => self.stored_in_force.is_some_and(|stored| stored != (offset, true)),
        };
        let settings = last.settings.as_ref().map(|webhook| Box::new(Webhook::clone(webhook)));
        is_due.then_some((about, InForce { since: last.place, settings }))
    }

    /// What arrived before the owner switched it off, deleted it or gave it to another workspace is dropped.
    ///
    /// It was wanted when it arrived, or there would be no bundle. Compaction may have taken away the settings that were
    /// in force then; all that can have happened between them and the first that are left is an end, after which it was
    /// enabled anew by later settings. The activation tells.
    fn owner_dropped(&self, arrived: Millis) -> bool {
        let is_known = self.changes.first().is_some_and(|first| first.counts_from <= arrived);
        let enabled_later =
            |activation: Activation| activation.topic == 0 && Millis(activation.at) + COUNTS_AFTER > arrived;
        let was_ended =
            !is_known && !self.activation_is_a_guess && self.activation.is_some_and(enabled_later);
        let first = self.changes.first().and_then(|first| first.settings.as_ref());
        let in_force = if is_known { self.at(arrived) } else { first };
        let workspace = in_force.map(|webhook| &webhook.workspace_id);
        let later = self.changes.iter().rev().take_while(|change| change.counts_from > arrived);
        let ends = |change: &Change| {
            !change.is_on() || change.settings.as_ref().map(|webhook| &webhook.workspace_id) != workspace
        };
        was_ended || later.into_iter().any(ends) || self.cut.is_some_and(|cut| arrived < cut)
    }
}

/// What is in force for a webhook now.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its settings.
    pub webhook: Arc<Webhook>,
    /// Its last enabling.
    pub activation: Activation,
    /// Set while the system has it disabled.
    pub disabled: Option<Disabled>,
}

/// All webhooks that are or were, by the log.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    webhooks: HashMap<WebhookId, WebhookHistory>,
    by_workspace: HashMap<WorkspaceId, BTreeSet<WebhookId>>,
}

impl Directory {
    /// Takes in a record of `webhook-settings`; none is a tombstone.
    pub fn change(&mut self, place: Place, id: &WebhookId, settings: Option<Webhook>) {
        self.note_workspace(id, settings.as_ref());
        let history = self.webhooks.entry(id.clone()).or_default();
        let settings = settings.map(Arc::new);
        // What is stored as in force may have been read before the record that it is about, and before older ones.
        if history.stored_in_force.is_some_and(|(offset, _)| offset >= place.offset) {
            history.restore(place, settings);
        } else {
            history.change(place, settings);
        }
    }

    fn note_workspace(&mut self, id: &WebhookId, settings: Option<&Webhook>) {
        if let Some(webhook) = settings {
            self.by_workspace.entry(webhook.workspace_id.clone()).or_default().insert(id.clone());
        }
    }

    /// Takes in that a record of `webhook-settings` can't be used: the former settings stay in force.
    pub fn refuse(&mut self, place: Place, id: &WebhookId) {
        let refused = &mut self.webhooks.entry(id.clone()).or_default().refused;
        *refused = (*refused).max(Some(place.offset));
    }

    /// Takes in a record of `webhook-states`.
    pub fn state(&mut self, place: Place, id: &WebhookId, state: State) {
        let history = self.webhooks.entry(id.clone()).or_default();
        match state {
            State::Activation(activation) => {
                let own = Activation { at: place.at.0, topic: 1, offset: place.offset };
                let activation = activation.unwrap_or(own);
                // Not the highest: compaction keeps the latest, so an older one that came late is stored over.
                history.stored_activation = Some(activation);
                let known = history.activation.filter(|_| !history.activation_is_a_guess);
                history.activation = known.max(Some(activation));
                history.activation_is_a_guess = false;
            }
            State::Disabled(disabled) => history.disabled = Some(disabled),
            State::Cut(before) => history.cut = history.cut.max(Some(before)),
            State::InForce(InForce { since, settings }) => {
                history.stored_in_force = Some((since.offset, settings.is_none()));
                self.note_workspace(id, settings.as_deref());
                let history = self.webhooks.entry(id.clone()).or_default();
                history.restore(since, settings.map(|webhook| Arc::new(*webhook)));
            }
        }
    }

    /// Takes a state back. An activation stays known, and is stored again: it only rises.
    pub fn take_back(&mut self, id: &WebhookId, kind: StateKind) {
        let Some(history) = self.webhooks.get_mut(id) else { return };
        match kind {
            StateKind::Activation => history.stored_activation = None,
            StateKind::Disabled => history.disabled = None,
            StateKind::Cut => history.cut = None,
            // What it held stays in force, and is stored again if it has to be.
            StateKind::InForce => history.stored_in_force = None,
        }
    }

    /// The webhooks that exist, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Current> {
        let mut ids: Vec<&WebhookId> = self.webhooks.keys().collect();
        ids.sort();
        ids.into_iter().filter_map(|id| self.current(id)).collect()
    }

    /// The webhooks that a workspace has or had, in the order of their ids.
    pub fn webhooks_of(&self, workspace: &str) -> impl Iterator<Item = &WebhookId> {
        self.by_workspace.get(workspace).into_iter().flatten()
    }

    /// True if the workspace has or had a webhook.
    #[must_use]
    pub fn knows(&self, workspace: &str) -> bool {
        self.by_workspace.contains_key(workspace)
    }

    /// The granularity under which a webhook wanted the messages of a workspace that arrived at a time, if it did.
    #[must_use]
    pub fn wanted(&self, id: &WebhookId, workspace: &str, arrived: Millis) -> Option<Granularity> {
        let history = self.webhooks.get(id)?;
        let webhook = history.at(arrived).filter(|webhook| webhook.enabled)?;
        let expired = history.disabled().is_some_and(|disabled| arrived >= disabled.at + HOLD);
        (webhook.workspace_id.as_str() == workspace && !expired).then_some(webhook.granularity)
    }

    /// True if what arrived at this time is dropped: the owner switched the webhook off or deleted it since, or had
    /// what was waiting discarded.
    #[must_use]
    pub fn owner_dropped(&self, id: &WebhookId, arrived: Millis) -> bool {
        self.webhooks.get(id).is_none_or(|history| history.owner_dropped(arrived))
    }

    /// What is in force for a webhook by the latest records; none if it is deleted or was never known.
    #[must_use]
    pub fn current(&self, id: &WebhookId) -> Option<Current> {
        let history = self.webhooks.get(id)?;
        let webhook = history.latest()?.clone();
        let activation = history.activation.unwrap_or_default();
        Some(Current { webhook, activation, disabled: history.disabled() })
    }

    /// The activations that `webhook-states` does not hold yet; whoever reads them stores them.
    #[must_use]
    pub fn unstored_activations(&self) -> Vec<(Arc<Webhook>, Activation)> {
        let unstored = |history: &WebhookHistory| {
            let activation = history.activation.filter(|known| Some(*known) > history.stored_activation)?;
            Some((history.latest()?.clone(), activation))
        };
        self.webhooks.values().filter_map(unstored).collect()
    }

    /// What is in force and `webhook-states` does not hold, although `webhook-settings` may lose it, each with settings of
    /// its webhook; whoever reads them stores them.
    #[must_use]
    pub fn unstored_in_force(&self) -> Vec<(Arc<Webhook>, InForce)> {
        self.webhooks.values().filter_map(WebhookHistory::unstored_in_force).collect()
    }

    /// How many webhooks exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.webhooks.values().filter(|history| history.latest().is_some()).count()
    }

    /// True if no webhook exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    const WS: &str = "ws-acme";

    fn settings(granularity: &str, enabled: bool) -> Webhook {
        let json = serde_json::json!({
            "webhook_id": "wh-1", "workspace_id": WS, "url": "https://hooks.example/x", "enabled": enabled,
            "granularity": granularity, "owner": {"full_name": "A", "email": "a@acme.example"},
        });
        wire::settings::decode(json.to_string().as_bytes()).unwrap()
    }

    fn id() -> WebhookId {
        WebhookId::parse("wh-1").unwrap()
    }

    fn at(seconds: i64) -> Millis {
        Millis(seconds * 1000)
    }

    fn place(seconds: i64) -> Place {
        Place { at: at(seconds), offset: seconds }
    }

    fn wanted(directory: &Directory, seconds: i64) -> Option<Granularity> {
        directory.wanted(&id(), WS, at(seconds))
    }

    #[test]
    fn what_waits_from_before_the_settings_that_compaction_left_is_kept_unless_it_was_enabled_since() {
        let enabled_at = |seconds: i64| Activation { at: seconds * 1000, topic: 0, offset: seconds };
        let compacted = |activation: Activation| {
            let mut directory = Directory::default();
            directory.change(place(500), &id(), Some(settings("6h", true)));
            directory.state(place(9), &id(), State::Activation(Some(activation)));
            directory
        };
        assert!(!compacted(enabled_at(10)).owner_dropped(&id(), at(100)), "enabled long before");
        assert!(compacted(enabled_at(200)).owner_dropped(&id(), at(100)), "switched off and on in between");
        let by_command = Activation { topic: 1, ..enabled_at(200) };
        assert!(!compacted(by_command).owner_dropped(&id(), at(100)), "held, then enabled by a command");
        let mut off = compacted(enabled_at(10));
        off.change(place(600), &id(), Some(settings("6h", false)));
        assert!(off.owner_dropped(&id(), at(100)));
        let mut deleted = Directory::default();
        deleted.change(place(500), &id(), None);
        assert!(deleted.owner_dropped(&id(), at(100)));
    }

    #[test]
    fn a_change_counts_from_five_seconds_after_it() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("none", true)));
        directory.change(place(20), &id(), Some(settings("6h", true)));
        assert_eq!(wanted(&directory, 14), None);
        assert_eq!(wanted(&directory, 15), Some(Granularity::None));
        assert_eq!(wanted(&directory, 24), Some(Granularity::None));
        assert_eq!(wanted(&directory, 25), Some(Granularity::SixHours));
    }

    #[test]
    fn what_arrived_before_the_owner_switched_off_is_dropped() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        assert!(!directory.owner_dropped(&id(), at(50)));
        directory.change(place(60), &id(), Some(settings("1h", false)));
        directory.change(place(90), &id(), Some(settings("1h", true)));
        assert!(directory.owner_dropped(&id(), at(50)));
        assert!(!directory.owner_dropped(&id(), at(95)));
        assert_eq!(wanted(&directory, 70), None);
    }

    #[test]
    fn what_arrived_before_a_webhook_moved_to_another_workspace_is_dropped() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        let moved = Webhook {
            workspace_id: WorkspaceId::parse("ws-b").unwrap(),
            fingerprint: 1,
            ..settings("1h", true)
        };
        directory.change(place(60), &id(), Some(moved));
        assert!(directory.owner_dropped(&id(), at(50)));
        assert!(!directory.owner_dropped(&id(), at(65)));
    }

    #[test]
    fn what_is_published_again_by_somebody_else_is_shown_but_is_no_change() {
        let mut directory = Directory::default();
        for seconds in 1..=100 {
            let version = u64::try_from(seconds).unwrap();
            directory.change(place(seconds), &id(), Some(Webhook { version, ..settings("1h", true) }));
        }
        assert_eq!(directory.webhooks[&id()].changes.len(), 1);
        let current = directory.current(&id()).unwrap();
        assert_eq!((current.webhook.version, current.activation.offset), (100, 1));
    }

    #[test]
    fn publishing_the_same_again_or_editing_does_not_touch_the_activation() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        directory.change(place(20), &id(), Some(settings("1h", true)));
        directory.change(place(30), &id(), Some(settings("6h", true)));
        assert_eq!(
            directory.current(&id()).unwrap().activation,
            Activation { at: 10_000, topic: 0, offset: 10 }
        );
        directory.change(place(40), &id(), Some(settings("6h", false)));
        directory.change(place(50), &id(), Some(settings("6h", true)));
        assert_eq!(directory.current(&id()).unwrap().activation.offset, 50);
    }

    #[test]
    fn a_stored_activation_outlives_the_compaction_of_the_record_that_made_it() {
        let activation = Activation { at: 10_000, topic: 0, offset: 10 };
        let disabled = Disabled { activation, at: at(20) };
        for settings_first in [true, false] {
            let mut directory = Directory::default();
            if settings_first {
                directory.change(place(99), &id(), Some(settings("1h", true)));
                directory.change(place(100), &id(), Some(settings("6h", true)));
            }
            directory.state(place(11), &id(), State::Activation(Some(activation)));
            directory.state(place(20), &id(), State::Disabled(disabled));
            if !settings_first {
                directory.change(place(99), &id(), Some(settings("1h", true)));
                directory.change(place(100), &id(), Some(settings("6h", true)));
            }
            let current = directory.current(&id()).unwrap();
            assert_eq!(current.activation, activation, "settings first: {settings_first}");
            assert_eq!(current.disabled, Some(disabled));
        }
    }

    #[test]
    fn a_disabling_counts_only_for_the_activation_it_names() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        let activation = directory.current(&id()).unwrap().activation;
        directory.state(place(20), &id(), State::Disabled(Disabled { activation, at: at(20) }));
        assert!(directory.current(&id()).unwrap().disabled.is_some());
        assert_eq!(wanted(&directory, 30), Some(Granularity::OneHour), "collecting goes on");
        assert_eq!(wanted(&directory, 20 + 7 * 86_400), None, "for seven days");
        directory.state(place(40), &id(), State::Activation(None));
        let current = directory.current(&id()).unwrap();
        assert!(current.disabled.is_none());
        assert_eq!(current.activation, Activation { at: 40_000, topic: 1, offset: 40 });
        assert!(directory.unstored_activations().is_empty(), "its record is there");
    }

    #[test]
    fn an_older_activation_that_is_stored_late_does_not_outlive_the_newer_one() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        let first = directory.current(&id()).unwrap().activation;
        directory.state(place(40), &id(), State::Activation(None));
        directory.state(place(41), &id(), State::Activation(Some(first)));
        let newer = Activation { at: 40_000, topic: 1, offset: 40 };
        assert_eq!(directory.current(&id()).unwrap().activation, newer);
        let unstored = directory.unstored_activations();
        assert_eq!(unstored.into_iter().map(|(_, activation)| activation).collect::<Vec<_>>(), [newer]);
    }

    #[test]
    fn a_state_that_is_taken_back_is_void() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        let activation = directory.current(&id()).unwrap().activation;
        directory.state(place(11), &id(), State::Activation(Some(activation)));
        directory.state(place(20), &id(), State::Disabled(Disabled { activation, at: at(20) }));
        directory.state(place(20), &id(), State::Cut(at(20)));
        for kind in [StateKind::Activation, StateKind::Disabled, StateKind::Cut, StateKind::InForce] {
            directory.take_back(&id(), kind);
        }
        let current = directory.current(&id()).unwrap();
        assert_eq!((current.activation, current.disabled), (activation, None));
        assert!(!directory.owner_dropped(&id(), at(19)));
        assert_eq!(directory.unstored_activations().len(), 1);
    }

    /// Settings at 10, changed at 50, then a record that is refused, and what is stored of it.
    fn refused_at_60() -> (Directory, InForce) {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        directory.change(place(50), &id(), Some(settings("6h", true)));
        assert!(directory.unstored_in_force().is_empty());
        directory.refuse(place(60), &id());
        let [(_, stored)] = <[_; 1]>::try_from(directory.unstored_in_force()).unwrap();
        assert_eq!(stored.since, place(50));
        (directory, stored)
    }

    #[test]
    fn what_is_in_force_outlives_the_compaction_of_its_record() {
        let (mut directory, stored) = refused_at_60();
        directory.state(place(61), &id(), State::InForce(stored.clone()));
        assert!(directory.unstored_in_force().is_empty());
        assert_eq!(wanted(&directory, 20), Some(Granularity::OneHour));

        let activation = directory.current(&id()).unwrap().activation;
        let mut compacted = Directory::default();
        compacted.refuse(place(60), &id());
        compacted.state(place(11), &id(), State::Activation(Some(activation)));
        compacted.state(place(61), &id(), State::InForce(stored));
        assert_eq!(wanted(&compacted, 54), None);
        assert_eq!(wanted(&compacted, 55), Some(Granularity::SixHours), "from when its record counted");
        assert_eq!(compacted.current(&id()).unwrap().activation, activation);
        assert!(compacted.knows(WS) && compacted.unstored_in_force().is_empty());
    }

    #[test]
    fn the_order_in_which_the_topics_are_read_changes_nothing() {
        let changes = [(10, "1h"), (50, "6h"), (90, "12h")];
        let (_, stored) = refused_at_60();
        // As if compaction had taken away the first so many records.
        for compacted in 0..=2 {
            for read_before in compacted..=3 {
                let mut directory = Directory::default();
                let take = |directory: &mut Directory, changes: &[(i64, &str)]| {
                    for (seconds, granularity) in changes {
                        directory.change(place(*seconds), &id(), Some(settings(granularity, true)));
                    }
                };
                take(&mut directory, &changes[compacted..read_before]);
                directory.state(place(61), &id(), State::InForce(stored.clone()));
                take(&mut directory, &changes[read_before..]);

                let case = format!("{compacted} compacted, {read_before} read before");
                let first = (compacted == 0).then_some(Granularity::OneHour);
                assert_eq!(wanted(&directory, 54), first, "{case}");
                assert_eq!(wanted(&directory, 55), Some(Granularity::SixHours), "{case}");
                assert_eq!(wanted(&directory, 95), Some(Granularity::TwelveHours), "{case}");
                let activation = directory.current(&id()).unwrap().activation;
                assert_eq!(activation.offset, if compacted == 0 { 10 } else { 50 }, "{case}");
                assert!(directory.unstored_in_force().is_empty(), "{case}");
            }
        }
    }

    #[test]
    fn what_is_stored_as_in_force_does_not_outlive_the_deletion() {
        let (mut directory, stored) = refused_at_60();
        directory.state(place(61), &id(), State::InForce(stored.clone()));
        directory.change(place(70), &id(), None);
        let [(about, end)] = <[_; 1]>::try_from(directory.unstored_in_force()).unwrap();
        assert_eq!((about.workspace_id.as_str(), end.since, end.settings.is_none()), (WS, place(70), true));
        directory.state(place(71), &id(), State::InForce(end.clone()));
        assert!(directory.unstored_in_force().is_empty());

        let mut compacted = Directory::default();
        compacted.state(place(71), &id(), State::InForce(end));
        assert!(compacted.current(&id()).is_none());
        compacted.change(place(80), &id(), Some(settings("1h", true)));
        compacted.state(place(81), &id(), State::InForce(stored));
        assert_eq!(
            wanted(&compacted, 90),
            Some(Granularity::OneHour),
            "an old one that is stored late is history"
        );
        compacted.refuse(place(95), &id());
        assert_eq!(compacted.unstored_in_force().len(), 1);
    }

    #[test]
    fn a_webhook_of_another_workspace_wants_nothing() {
        let mut directory = Directory::default();
        directory.change(place(10), &id(), Some(settings("1h", true)));
        assert_eq!(directory.wanted(&id(), "ws-other", at(60)), None);
        assert!(!directory.knows("ws-other"));
        assert!(directory.owner_dropped(&WebhookId::parse("wh-2").unwrap(), at(60)), "nobody wants it");
    }
}
