//! Creating, changing and deleting webhooks, and rotating their secrets.

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{CommandError, Commands, settings::Base};
use crate::{
    io::{clock, kafka::publisher::Outgoing},
    model::{
        ids::{WebhookId, WorkspaceId},
        time::body_timestamp,
        webhook::{MASK, Owner, masked_url, masked_value},
    },
    wire::settings,
};

/// Bytes of a signing secret.
const SECRET_BYTES: usize = 24;

/// What is to be changed in settings; what is none stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    pub label: Option<String>,
    pub url: Option<String>,
    pub enabled: Option<bool>,
    pub granularity: Option<String>,
    pub success: Option<String>,
    /// Inner none: no limit.
    pub max_per_second: Option<Option<u16>>,
    /// All of them, anew.
    pub secrets: Option<Vec<String>>,
    /// Headers by name; none takes one away, those that are not named stay.
    pub headers: Vec<(String, Option<String>)>,
    pub owner: Option<Owner>,
}

/// A new secret, shown once.
#[derive(Debug, Clone)]
pub struct Rotated {
    pub secret: String,
    /// How many secrets sign now.
    pub secrets: usize,
}

impl Commands {
    /// Creates a webhook, and returns its id.
    ///
    /// # Errors
    /// If a value can't be used, the workspace has as many as it may have, or Kafka can't be used.
    pub async fn create(
        &self,
        workspace: &WorkspaceId,
        patch: Patch,
        most: usize,
    ) -> Result<WebhookId, CommandError> {
        self.read_settings().await?;
        let has = self.webhooks_of(workspace);
        if has >= most {
            return Err(CommandError::Refused(format!(
                "workspace `{workspace}` has {has} webhooks, expected fewer than {most}; delete one first"
            )));
        }
        let id = WebhookId::parse(&format!("wh-{}", Uuid::new_v4())).map_err(CommandError::failed)?;
        let mut record = Map::new();
        record.insert("webhook_id".to_owned(), id.as_str().into());
        record.insert("workspace_id".to_owned(), workspace.as_str().into());
        record.extend(patch.fields(&Value::Null));
        record.insert("version".to_owned(), 1.into());
        record.insert("updated_at".to_owned(), body_timestamp(clock::now().to_utc()).into());
        record.insert("updated_by".to_owned(), self.by.clone().into());
        let record = Value::Object(record).to_string().into_bytes();
        let mut webhook = settings::decode(&record).map_err(|poison| CommandError::Invalid(poison.detail))?;
        let record = self.seal(&mut webhook, record)?;
        let (topic, key) = (&self.topics.webhook_settings, id.as_str().as_bytes());
        self.publish_edit_record(&Outgoing {
            topic,
            partition: None,
            key,
            value: Some(&record),
            headers: &[],
        })
        .await?;
        self.keep_within(workspace, &id, most).await?;
        Ok(id)
    }

    /// Withdraws a webhook that was created in the same moment as others, if they are too many together. Each process looks
    /// once its own is published, so at least the last of them sees all.
    async fn keep_within(
        &self,
        workspace: &WorkspaceId,
        id: &WebhookId,
        most: usize,
    ) -> Result<(), CommandError> {
        self.read_settings().await?;
        let has = self.webhooks_of(workspace);
        if has <= most {
            return Ok(());
        }
        self.delete(id, None).await?;
        Err(CommandError::Refused(format!(
            "workspace `{workspace}` has {} webhooks by now, since others were created in the same moment, expected at most \
             {most}; try again, or delete one first",
            has - 1
        )))
    }

    fn webhooks_of(&self, workspace: &WorkspaceId) -> usize {
        let all = self.tail.directory().all();
        all.iter().filter(|current| current.webhook.workspace_id == *workspace).count()
    }

    /// The owner that the webhooks of a workspace name, if it has any.
    #[must_use]
    pub fn owner_of(&self, workspace: &WorkspaceId) -> Option<Owner> {
        let all = self.tail.directory().all();
        let current = all.into_iter().find(|current| current.webhook.workspace_id == *workspace)?;
        Some(current.webhook.owner.clone())
    }

    /// Changes settings.
    ///
    /// # Errors
    /// If a value can't be used, the webhook does not have the version that is expected, or is edited meanwhile.
    pub async fn update(
        &self,
        id: &WebhookId,
        mut patch: Patch,
        version: Option<u64>,
    ) -> Result<(), CommandError> {
        let base = self.base(id, version).await?;
        // What was shown masked comes back masked where it was not changed.
        if patch.url.as_deref() == Some(&masked_url(&base.webhook.url)) {
            patch.url = None;
        } else if let Some(name) = patch.url.as_deref().and_then(masked_value) {
            return Err(CommandError::Invalid(format!(
                "`url` has `{MASK}` as the value of `{name}`, which was only shown so; expected the value itself, or the URL \
                 as it was shown"
            )));
        }
        let fields = patch.fields(&record(&base)?);
        self.publish_edit(&base, fields, "update").await.map(drop)
    }

    /// Deletes a webhook: what is open or waits is dropped.
    ///
    /// # Errors
    /// As [`Commands::update`].
    pub async fn delete(&self, id: &WebhookId, version: Option<u64>) -> Result<(), CommandError> {
        let base = self.base(id, version).await?;
        // A tombstone has no settings to say who made it.
        let headers = [("updated-by", self.by.clone())];
        self.publish_on(&base, None, &headers, "delete").await
    }

    /// Gives a webhook a new signing secret. The one before goes on signing, too, if it is kept.
    ///
    /// # Errors
    /// As [`Commands::update`]; and if a rotation is going on: the receiver may know the elder secret alone, which a second
    /// rotation would take away.
    pub async fn rotate(
        &self,
        id: &WebhookId,
        keep_former: bool,
        version: Option<u64>,
    ) -> Result<Rotated, CommandError> {
        let base = self.base(id, version).await?;
        if keep_former && base.webhook.secrets.len() > 1 {
            return Err(CommandError::Refused(format!(
                "webhook `{id}` is signed with two secrets, since a rotation is going on; end it once the receiver knows the \
                 newer one, then rotate again"
            )));
        }
        let bytes: [u8; SECRET_BYTES] = rand::random();
        let secret = format!("whsec_{}", BASE64_STANDARD.encode(bytes));
        let mut secrets = vec![json!(secret)];
        if keep_former {
            secrets.extend(record(&base)?["secrets"].as_array().and_then(|former| former.first().cloned()));
        }
        let count = secrets.len();
        let fields = Map::from_iter([("secrets".to_owned(), Value::Array(secrets))]);
        self.publish_edit(&base, fields, "rotate the secret").await?;
        Ok(Rotated { secret, secrets: count })
    }

    /// Ends a rotation: only the newest secret signs from now on.
    ///
    /// # Errors
    /// As [`Commands::update`].
    pub async fn end_rotation(&self, id: &WebhookId, version: Option<u64>) -> Result<(), CommandError> {
        let base = self.base(id, version).await?;
        let newest: Vec<Value> =
            base.webhook.secrets.iter().take(1).map(|secret| secret.expose_secret().into()).collect();
        let fields = Map::from_iter([("secrets".to_owned(), newest.into())]);
        self.publish_edit(&base, fields, "end the rotation").await.map(drop)
    }
}

fn record(base: &Base) -> Result<Value, CommandError> {
    serde_json::from_slice(&base.record).map_err(CommandError::failed)
}

impl Patch {
    /// The fields of a record that it changes, given the record as it is.
    fn fields(self, record: &Value) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        set("label", self.label.map(Value::from));
        set("url", self.url.map(Value::from));
        set("enabled", self.enabled.map(Value::from));
        set("granularity", self.granularity.map(Value::from));
        set("success", self.success.map(Value::from));
        set("max_per_second", self.max_per_second.map(Value::from));
        set("secrets", self.secrets.map(Value::from));
        set("owner", self.owner.and_then(|owner| serde_json::to_value(owner).ok()));
        if !self.headers.is_empty() {
            let mut headers = record["headers"].as_object().cloned().unwrap_or_default();
            for (name, value) in self.headers {
                headers.retain(|other, _| !other.eq_ignore_ascii_case(&name));
                headers.extend(value.map(|value| (name, value.into())));
            }
            set("headers", Some(headers.into()));
        }
        fields
    }
}
