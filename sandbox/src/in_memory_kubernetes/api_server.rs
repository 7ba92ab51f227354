//! The API server: requests in, answers out, and a history that watches read.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::{Managers, merge};
use super::object::{
    Key, Kind, Refusal, Stored, counted, finalizers, hold, is_deleting, members, meta, meta_mut, meta_text,
    metadata_only, owners, time,
};

/// The finalizer that holds an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// The query.
    pub query: &'a str,
    /// The header `Accept`.
    pub accept: &'a str,
    /// The header `Content-Type`.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// When it arrives.
    pub now: Timestamp,
}

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// A status and a body.
    Once(StatusCode, Value),
    /// A stream of events.
    Watch(Watch),
}

/// Where a watch is in the history, and what it is of.
#[derive(Clone, Debug)]
pub struct Watch {
    kind: Kind,
    of: Selection,
    metadata_only: bool,
    bookmarks: bool,
    lasts: Option<Duration>,
    next: usize,
    expired: bool,
}

impl Watch {
    /// After how long it is to end, if whoever asked for it said so.
    pub fn lasts(&self) -> Option<Duration> {
        self.lasts
    }
}

#[derive(Clone, Debug)]
struct Selection {
    plural: &'static str,
    namespace: Option<String>,
    name: Option<String>,
    labels: Vec<(String, String)>,
}

impl Selection {
    fn takes(&self, key: &Key, object: &Value) -> bool {
        let label = |name: &str| meta(object, "labels").and_then(|labels| labels.get(name)?.as_str());
        key.plural == self.plural
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
            && self.labels.iter().all(|(name, value)| label(name) == Some(value))
    }
}

#[derive(Clone, Debug)]
struct Change {
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
    /// As it was before, under the change's version: what a watch is told that it is not of any more.
    last: Value,
}

/// Objects, their history, and the rules of changing them.
#[derive(Debug)]
pub struct ApiServer {
    kinds: Vec<Kind>,
    pub(super) objects: BTreeMap<Key, Stored>,
    history: Vec<Change>,
    forgotten: usize,
    made: BTreeMap<Key, u64>,
}

/// What a request is about.
struct Route {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

/// Whose change it is.
enum Writer<'a> {
    /// Of somebody by this name who says what changes, or how all is to be.
    Update(&'a str),
    /// Of an applier: who manages what from then on.
    Apply(Managers),
}

type Outcome<T> = Result<T, Refusal>;

impl ApiServer {
    /// A server that knows these kinds and has no objects.
    pub fn new(kinds: &[Kind]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            objects: BTreeMap::new(),
            history: Vec::new(),
            forgotten: 0,
            made: BTreeMap::new(),
        }
    }

    /// The latest resource version.
    pub fn revision(&self) -> usize {
        self.history.len()
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter().map(|(key, stored)| (key, &stored.value))
    }

    /// How often objects of each name were made.
    pub fn made(&self) -> &BTreeMap<Key, u64> {
        &self.made
    }

    /// Forgets the history so far, so that watches that are behind it have to begin anew.
    pub fn forget_history(&mut self) {
        self.forgotten = self.history.len();
    }

    /// Answers a request.
    pub fn handle(&mut self, request: &Request<'_>) -> Answer {
        match self.answer(request) {
            Ok(answer) => answer,
            Err(refusal) => Answer::Once(refusal.status, refusal.body()),
        }
    }

    /// The next event of a watch, if there is one: a line of the stream. After an error the stream is over.
    pub fn next_event(&self, watch: &mut Watch) -> Option<Value> {
        if watch.expired {
            return None;
        }
        if watch.next < self.forgotten {
            watch.expired = true;
            let refusal = Refusal::new(StatusCode::GONE, "Expired", "too old resource version");
            return Some(json!({ "type": "ERROR", "object": refusal.body() }));
        }
        while let Some(change) = self.history.get(watch.next) {
            watch.next += 1;
            let taken = |object: &Option<Value>| {
                object
                    .as_ref()
                    .is_some_and(|object| watch.of.takes(&change.key, object))
            };
            let (type_, object) = match (taken(&change.before), taken(&change.after)) {
                (false, false) => continue,
                (false, true) => ("ADDED", change.after.as_ref()),
                (true, true) => ("MODIFIED", change.after.as_ref()),
                (true, false) => ("DELETED", Some(&change.last)),
            };
            let object = object.cloned().unwrap_or_default();
            let object = if watch.metadata_only {
                metadata_only(&object)
            } else {
                object
            };
            return Some(json!({ "type": type_, "object": object }));
        }
        None
    }

    /// Whether a watch has events that were not read.
    pub fn has_events(&self, watch: &mut Watch) -> bool {
        if watch.expired || watch.next < self.forgotten {
            return !watch.expired;
        }
        while let Some(change) = self.history.get(watch.next) {
            let taken = |object: Option<&Value>| object.is_some_and(|object| watch.of.takes(&change.key, object));
            if taken(change.before.as_ref()) || taken(change.after.as_ref()) {
                return true;
            }
            watch.next += 1;
        }
        false
    }

    /// What a watch is told now and then that asked for bookmarks: how far it is, so that it can go on from there. There is
    /// none while events are to come.
    pub fn bookmark(&self, watch: &mut Watch) -> Option<Value> {
        // Events are not among what the API server caches, which is where bookmarks come from.
        let cached = watch.kind.kind != "Event";
        if !cached || !watch.bookmarks || watch.expired || self.has_events(watch) {
            return None;
        }
        let mut object = json!({
            "kind": watch.kind.kind, "apiVersion": watch.kind.api_version(),
            "metadata": { "resourceVersion": watch.next.to_string() },
        });
        if watch.metadata_only {
            object = metadata_only(&object);
        }
        Some(json!({ "type": "BOOKMARK", "object": object }))
    }

    /// Whether a watch has ended by itself.
    pub fn is_over(watch: &Watch) -> bool {
        watch.expired
    }

    fn route(&self, path: &str) -> Outcome<Route> {
        let mut parts = path.trim_matches('/').split('/').peekable();
        let lost = || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                "the server could not find the requested resource",
            )
        };
        let group = match parts.next() {
            Some("api") => "",
            Some("apis") => parts.next().ok_or_else(lost)?,
            _ => return Err(lost()),
        };
        let version = parts.next().ok_or_else(lost)?;
        let mut namespace = None;
        if parts.peek() == Some(&"namespaces") {
            parts.next();
            namespace = Some(parts.next().ok_or_else(lost)?.to_owned());
        }
        let plural = parts.next().ok_or_else(lost)?;
        let kind = self
            .kinds
            .iter()
            .find(|kind| kind.group == group && kind.version == version && kind.plural == plural);
        let route = Route {
            kind: *kind.ok_or_else(lost)?,
            namespace,
            name: parts.next().map(str::to_owned),
            status: match parts.next() {
                None => false,
                Some("status") => true,
                Some(_) => return Err(lost()),
            },
        };
        if route.status && !route.kind.status {
            return Err(lost());
        }
        Ok(route)
    }

    fn answer(&mut self, request: &Request<'_>) -> Outcome<Answer> {
        let route = self.route(request.path)?;
        let partial = request.accept.contains("as=PartialObjectMetadata");
        let shown = |object: Value| if partial { metadata_only(&object) } else { object };
        let once = |(status, object): (StatusCode, Value)| Answer::Once(status, shown(object));
        let Some(name) = route.name.clone() else {
            return match *request.method {
                Method::GET => self.select(&route, request, partial),
                Method::POST => {
                    let object = read(request.body)?;
                    self.create(&route, object, request).map(once)
                }
                _ => Err(Refusal::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "MethodNotAllowed",
                    "the server does not allow this method on the requested resource",
                )),
            };
        };
        let key = Key {
            plural: route.kind.plural,
            namespace: route.namespace.clone().unwrap_or_default(),
            name,
        };
        match *request.method {
            Method::GET => {
                let found = self.objects.get(&key);
                let found = found.ok_or_else(|| Refusal::not_found(&route.kind, &key.name))?;
                Ok(once((StatusCode::OK, found.value.clone())))
            }
            Method::PUT => self.replace(&route, &key, read(request.body)?, request).map(once),
            Method::PATCH => self.patch(&route, &key, request).map(once),
            Method::DELETE => self.delete(&route.kind, &key, request).map(once),
            _ => Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )),
        }
    }

    fn select(&mut self, route: &Route, request: &Request<'_>, partial: bool) -> Outcome<Answer> {
        let query: BTreeMap<String, String> = pairs(request.query);
        let selection = Selection {
            plural: route.kind.plural,
            namespace: route.namespace.clone(),
            name: query
                .get("fieldSelector")
                .and_then(|selector| selector.strip_prefix("metadata.name="))
                .map(str::to_owned),
            labels: match query.get("labelSelector") {
                Some(selector) => labels(selector)?,
                None => Vec::new(),
            },
        };
        let is_set = |name: &str| query.get(name).is_some_and(|set| set == "true" || set == "1");
        if is_set("watch") {
            let from = query.get("resourceVersion").map(String::as_str).unwrap_or_default();
            let from = from
                .parse()
                .map_err(|_| Refusal::bad_request(format!("resource version {from:?} is not a number here")))?;
            return Ok(Answer::Watch(Watch {
                kind: route.kind,
                of: selection,
                metadata_only: partial,
                bookmarks: is_set("allowWatchBookmarks"),
                lasts: query
                    .get("timeoutSeconds")
                    .and_then(|seconds| seconds.parse().ok().map(Duration::from_secs)),
                next: from,
                expired: false,
            }));
        }
        let found = self
            .objects
            .iter()
            .filter(|(key, stored)| selection.takes(key, &stored.value));
        let items: Vec<_> = found
            .map(|(_, stored)| {
                if partial {
                    metadata_only(&stored.value)
                } else {
                    stored.value.clone()
                }
            })
            .collect();
        let (kind, api_version) = if partial {
            ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (format!("{}List", route.kind.kind), route.kind.api_version())
        };
        Ok(Answer::Once(
            StatusCode::OK,
            json!({
                "kind": kind, "apiVersion": api_version,
                "metadata": { "resourceVersion": self.revision().to_string() }, "items": items,
            }),
        ))
    }

    fn create(&mut self, route: &Route, mut object: Value, request: &Request<'_>) -> Outcome<(StatusCode, Value)> {
        let kind = route.kind;
        let name = meta_text(&object, "name").to_owned();
        if name.is_empty() {
            return Err(Refusal::invalid(
                &kind,
                "",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        if meta(&object, "resourceVersion").is_some() {
            return Err(Refusal::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let namespace = route.namespace.clone().unwrap_or_default();
        let named = meta_text(&object, "namespace");
        if !named.is_empty() && named != namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let key = Key {
            plural: kind.plural,
            namespace,
            name,
        };
        if self.objects.contains_key(&key) {
            let message = format!("{} \"{}\" already exists", kind.resource(), key.name);
            return Err(Refusal::new(StatusCode::CONFLICT, "AlreadyExists", message));
        }
        self.begin(&kind, &key, &mut object, request.now);
        let managers = Managers::default().updated(&manager(request), &json!({}), &object);
        let stored = Stored {
            value: object,
            managers,
        };
        Ok((StatusCode::CREATED, self.put(key, stored)))
    }

    /// What the server fills in of a new object.
    fn begin(&mut self, kind: &Kind, key: &Key, object: &mut Value, now: Timestamp) {
        let made = self.made.entry(key.clone()).or_default();
        *made += 1;
        let uid = uid(key, *made);
        let fields = members(object);
        fields.insert("apiVersion".to_owned(), json!(kind.api_version()));
        fields.insert("kind".to_owned(), json!(kind.kind));
        if kind.status {
            fields.remove("status");
        }
        if kind.kind == "Service" {
            let spec = members(fields.entry("spec").or_insert_with(|| json!({})));
            let address = format!("10.96.{}.{}", self.history.len() / 256 % 256, self.history.len() % 256);
            spec.entry("clusterIP").or_insert_with(|| json!(address));
            fields.insert("status".to_owned(), json!({ "loadBalancer": {} }));
        }
        if !kind.custom {
            typed(kind, object);
        }
        if kind.kind == "PersistentVolumeClaim" {
            self.begin_claim(object);
        }
        let metadata = meta_mut(object);
        for name in ["deletionTimestamp", "managedFields", "selfLink"] {
            metadata.remove(name);
        }
        if kind.namespaced {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), time(now));
        if kind.generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
    }

    fn replace(
        &mut self,
        route: &Route,
        key: &Key,
        mut object: Value,
        request: &Request<'_>,
    ) -> Outcome<(StatusCode, Value)> {
        let kind = route.kind;
        let Some(standing) = self.objects.get(key) else {
            // The API calls this "create on update"; which version it was to be of is not asked.
            if ["Service", "Lease"].contains(&kind.kind) && !route.status {
                meta_mut(&mut object).remove("resourceVersion");
                return self.create(route, object, request);
            }
            return Err(Refusal::not_found(&kind, &key.name));
        };
        let version = meta_text(&object, "resourceVersion");
        if version.is_empty() && (kind.custom || kind.kind == "Lease") {
            return Err(Refusal::invalid(
                &kind,
                &key.name,
                "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
            ));
        }
        check_version(&kind, &key.name, version, &standing.value)?;
        let uid = meta_text(&object, "uid");
        if !uid.is_empty() && uid != meta_text(&standing.value, "uid") {
            return Err(Refusal::conflict(
                &kind,
                &key.name,
                "Precondition failed: UID in precondition",
            ));
        }
        let before = standing.clone();
        meta_mut(&mut object).remove("managedFields");
        self.change(route, key, &before, object, Writer::Update(&manager(request)))
    }

    fn patch(&mut self, route: &Route, key: &Key, request: &Request<'_>) -> Outcome<(StatusCode, Value)> {
        let kind = route.kind;
        let query = pairs(request.query);
        let patch = read(request.body)?;
        let applied = match request.content_type {
            "application/merge-patch+json" => None,
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(
                query
                    .get("fieldManager")
                    .cloned()
                    .ok_or_else(|| Refusal::bad_request("fieldManager is required for apply patch"))?,
            ),
            other => {
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UnsupportedMediaType",
                    format!("patches of type {other:?} are not known here"),
                ));
            }
        };
        let Some(before) = self.objects.get(key).cloned() else {
            let Some(manager) = applied.filter(|_| !route.status) else {
                return Err(Refusal::not_found(&kind, &key.name));
            };
            let mut object = patch.clone();
            meta_mut(&mut object).insert("name".to_owned(), json!(key.name));
            meta_mut(&mut object).remove("managedFields");
            if meta(&object, "resourceVersion").is_some() || meta(&object, "uid").is_some() {
                return Err(Refusal::conflict(&kind, &key.name, "the object does not exist"));
            }
            self.begin(&kind, key, &mut object, request.now);
            let stored = Stored {
                managers: Managers::default().apply(&manager, &mut json!({}), &patch),
                value: object,
            };
            return Ok((StatusCode::CREATED, self.put(key.clone(), stored)));
        };
        check_version(&kind, &key.name, meta_text(&patch, "resourceVersion"), &before.value)?;
        let mut object = before.value.clone();
        let updater = manager(request);
        let writer = match applied {
            None => {
                merge(&mut object, &patch);
                Writer::Update(&updater)
            }
            Some(manager) => {
                let named = meta_text(&patch, "uid");
                if !named.is_empty() {
                    meta_mut(&mut object).insert("uid".to_owned(), json!(named));
                }
                Writer::Apply(before.managers.clone().apply(&manager, &mut object, &patch))
            }
        };
        let uid = meta_text(&object, "uid");
        if uid != meta_text(&before.value, "uid") {
            return Err(Refusal::conflict(
                &kind,
                &key.name,
                "Precondition failed: UID in precondition",
            ));
        }
        self.change(route, key, &before, object, writer)
    }

    /// Writes what an object is to be, by the rules of updates.
    fn change(
        &mut self,
        route: &Route,
        key: &Key,
        before: &Stored,
        wanted: Value,
        writer: Writer<'_>,
    ) -> Outcome<(StatusCode, Value)> {
        let kind = route.kind;
        let mut object = if route.status {
            let mut object = before.value.clone();
            match wanted.get("status") {
                Some(status) => drop(members(&mut object).insert("status".to_owned(), status.clone())),
                None => drop(members(&mut object).remove("status")),
            }
            object
        } else {
            let mut object = wanted;
            if kind.status {
                match before.value.get("status") {
                    Some(status) => drop(members(&mut object).insert("status".to_owned(), status.clone())),
                    None => drop(members(&mut object).remove("status")),
                }
            }
            object
        };
        if is_deleting(&before.value) {
            let had = finalizers(&before.value);
            if finalizers(&object).iter().any(|finalizer| !had.contains(finalizer)) {
                return Err(Refusal::invalid(
                    &kind,
                    &key.name,
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
                ));
            }
        }
        if kind.kind == "ControllerRevision" && object.get("data") != before.value.get("data") {
            return Err(Refusal::invalid(
                &kind,
                &key.name,
                "data: Invalid value: field is immutable",
            ));
        }
        if kind.kind == "PersistentVolumeClaim" && !route.status {
            self.check_claim(&kind, &key.name, &before.value, &object)?;
        }
        members(&mut object).insert("apiVersion".to_owned(), json!(kind.api_version()));
        members(&mut object).insert("kind".to_owned(), json!(kind.kind));
        if !kind.custom {
            typed(&kind, &mut object);
        }
        let empty = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => value.is_null(),
        };
        let metadata = meta_mut(&mut object);
        for name in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "namespace",
            "name",
            "resourceVersion",
        ] {
            match meta(&before.value, name) {
                Some(value) => drop(metadata.insert(name.to_owned(), value.clone())),
                None => drop(metadata.remove(name)),
            }
        }
        for name in ["finalizers", "ownerReferences", "labels", "annotations"] {
            if metadata.get(name).is_some_and(empty) {
                metadata.remove(name);
            }
        }
        let managers = match writer {
            // Who manages the fields of a status is nobody's matter here.
            _ if route.status => before.managers.clone(),
            Writer::Update(manager) => before.managers.clone().updated(manager, &before.value, &object),
            Writer::Apply(managers) => managers,
        };
        if object == before.value && managers == before.managers {
            return Ok((StatusCode::OK, object));
        }
        // A Deployment's annotations count as well.
        let annotated = kind.kind == "Deployment" && meta(&object, "annotations") != meta(&before.value, "annotations");
        if kind.generation && (annotated || counted(&object) != counted(&before.value)) {
            grow(&mut object);
        }
        if is_deleting(&object) && finalizers(&object).is_empty() && !has_grace(&object) {
            // Watches are told how it was before its last finalizer went.
            self.remove(key);
            return Ok((StatusCode::OK, object));
        }
        let stored = Stored {
            value: object,
            managers,
        };
        Ok((StatusCode::OK, self.put(key.clone(), stored)))
    }

    fn delete(&mut self, kind: &Kind, key: &Key, request: &Request<'_>) -> Outcome<(StatusCode, Value)> {
        let options = if request.body.is_empty() {
            json!({})
        } else {
            read(request.body)?
        };
        let policy = options.get("propagationPolicy").and_then(Value::as_str);
        let standing = self
            .objects
            .get(key)
            .ok_or_else(|| Refusal::not_found(kind, &key.name))?;
        for (name, member) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let wanted = options
                .get("preconditions")
                .and_then(|conditions| conditions.get(name)?.as_str());
            if wanted.is_some_and(|wanted| wanted != meta_text(&standing.value, name)) {
                let why = format!("Precondition failed: {member} in precondition");
                return Err(Refusal::conflict(kind, &key.name, &why));
            }
        }
        let mut stored = standing.clone();
        let object = &mut stored.value;
        if is_deleting(object) {
            // How its dependents go may still be said otherwise.
            let held = finalizers(object).contains(&FOREGROUND);
            return match policy {
                Some("Foreground") if !held => {
                    hold(object, FOREGROUND);
                    Ok((StatusCode::OK, self.put(key.clone(), stored)))
                }
                _ => Ok((StatusCode::OK, stored.value)),
            };
        }
        if policy == Some("Foreground") {
            hold(object, FOREGROUND);
        }
        // The kubelet ends a Pod's processes first.
        let grace = if kind.kind == "Pod" { 30 } else { 0 };
        if finalizers(object).is_empty() && grace == 0 {
            let uid = meta_text(object, "uid").to_owned();
            let last = self.remove(key);
            if kind.kind == "Service" {
                return Ok((StatusCode::OK, last));
            }
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": { "name": key.name, "group": kind.group, "kind": kind.plural, "uid": uid },
            });
            return Ok((StatusCode::OK, status));
        }
        meta_mut(object).insert("deletionTimestamp".to_owned(), time(request.now));
        meta_mut(object).insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        if kind.generation {
            grow(object);
        }
        Ok((StatusCode::OK, self.put(key.clone(), stored)))
    }

    /// Stores an object under the next resource version.
    pub(super) fn put(&mut self, key: Key, mut stored: Stored) -> Value {
        let version = self.history.len() + 1;
        meta_mut(&mut stored.value).insert("resourceVersion".to_owned(), json!(version.to_string()));
        let value = stored.value.clone();
        let before = self.objects.insert(key.clone(), stored).map(|before| before.value);
        let mut last = before.clone().unwrap_or_default();
        meta_mut(&mut last).insert("resourceVersion".to_owned(), json!(version.to_string()));
        self.history.push(Change {
            key,
            before,
            after: Some(value.clone()),
            last,
        });
        value
    }

    /// Takes an object away. Returns it as it was at the end.
    pub(super) fn remove(&mut self, key: &Key) -> Value {
        let Some(Stored { value: before, .. }) = self.objects.remove(key) else {
            return Value::Null;
        };
        let mut last = before.clone();
        let version = self.history.len() + 1;
        meta_mut(&mut last).insert("resourceVersion".to_owned(), json!(version.to_string()));
        self.history.push(Change {
            key: key.clone(),
            before: Some(before),
            after: None,
            last: last.clone(),
        });
        last
    }

    /// Those that name an object as their owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Key> {
        let of =
            |stored: &Stored| owners(&stored.value).any(|owner| owner.get("uid").and_then(Value::as_str) == Some(uid));
        self.objects
            .iter()
            .filter(|(_, stored)| of(stored))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// The kind of a key.
    pub(super) fn kind(&self, key: &Key) -> Option<Kind> {
        self.kinds.iter().find(|kind| kind.plural == key.plural).copied()
    }
}

/// What becomes of a built-in object that is read into its type and written again.
fn typed(kind: &Kind, object: &mut Value) {
    drop_nulls(object);
    if kind.kind == "Secret"
        && let Some(Value::Object(texts)) = members(object).remove("stringData")
    {
        use base64::Engine as _;
        let data = members(members(object).entry("data").or_insert_with(|| json!({})));
        for (name, text) in texts {
            let text = text.as_str().unwrap_or_default();
            data.insert(name, json!(base64::prelude::BASE64_STANDARD.encode(text)));
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Uids follow from names, so that a run can be repeated.
fn uid(key: &Key, nth: u64) -> String {
    let name = format!("{}/{}/{}#{nth}", key.plural, key.namespace, key.name);
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn has_grace(object: &Value) -> bool {
    meta(object, "deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        > 0
}

fn grow(object: &mut Value) {
    let generation = meta(object, "generation").and_then(Value::as_i64).unwrap_or(0);
    meta_mut(object).insert("generation".to_owned(), json!(generation + 1));
}

/// The name under which a request's fields are managed.
fn manager(request: &Request<'_>) -> String {
    pairs(request.query).remove("fieldManager").unwrap_or_default()
}

fn check_version(kind: &Kind, name: &str, wanted: &str, standing: &Value) -> Outcome<()> {
    if wanted.is_empty() || wanted == meta_text(standing, "resourceVersion") {
        return Ok(());
    }
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Err(Refusal::conflict(kind, name, why))
}

fn read(body: &[u8]) -> Outcome<Value> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Percent-decodes a part of a query.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A selector of equalities.
fn labels(selector: &str) -> Outcome<Vec<(String, String)>> {
    let terms = selector.split(',').filter(|term| !term.is_empty());
    terms
        .map(|term| {
            let (name, value) = term
                .split_once("==")
                .or_else(|| term.split_once('='))
                .ok_or_else(|| Refusal::bad_request(format!("selector {term:?} is not known here")))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}
