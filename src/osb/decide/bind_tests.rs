use super::super::fixtures::*;
use super::*;
use crate::api::{Connection, EngineType};
use crate::osb::error::Code;

const HOUR: Duration = Duration::from_secs(3600);

fn request() -> BindRequest {
    BindRequest {
        origin: Origin::Fresh {
            service_id: SERVICE.parse().unwrap(),
            plan_id: "p".parse().unwrap(),
        },
        app_guid: Some("app".to_owned()),
        context: Map::new(),
        parameters: Map::new(),
        accepts_incomplete: false,
        webhook: None,
    }
}

fn patient() -> BindRequest {
    BindRequest {
        accepts_incomplete: true,
        ..request()
    }
}

fn successor(predecessor: &str) -> BindRequest {
    BindRequest {
        origin: Origin::Successor {
            predecessor: predecessor.parse().unwrap(),
        },
        app_guid: None,
        ..patient()
    }
}

fn of_plan(plan_id: &str) -> BindRequest {
    BindRequest {
        origin: Origin::Fresh {
            service_id: SERVICE.parse().unwrap(),
            plan_id: plan_id.parse().unwrap(),
        },
        ..patient()
    }
}

/// What an instance whose bindings share a password opens to.
fn shared() -> Bindable {
    Bindable {
        connection: Some(connection()),
        plan_spec: None,
    }
}

/// What an instance whose bindings have users opens to.
fn users() -> Bindable {
    let spec = json!({
        "service": "akkeris-redis", "id": "p", "description": "d", "engine": { "type": "redis", "version": "7.1" },
        "bindingCredentials": "perBinding", "kubernetes": { "memory": "64Mi" },
    });
    Bindable {
        plan_spec: Some(spec),
        connection: Some(Connection {
            engine: EngineType::Redis,
            password: Some("shared".to_owned().into()),
            ..connection()
        }),
    }
}

fn user() -> FreshUser {
    FreshUser {
        name: "b-new".to_owned(),
        password: "secret".to_owned().into(),
    }
}

fn judged(
    request: &BindRequest,
    held: Option<&Held<Bindable>>,
    existing: Option<&Binding>,
    predecessor: Option<&Binding>,
) -> Judgement<Reply, NewBinding> {
    let setting = Setting {
        version: Version::V17,
        catalog: None,
        user: &user(),
        deadline: HOUR,
    };
    let standing = Standing {
        existing: existing.cloned(),
        predecessor: predecessor.cloned(),
    };
    judge(request, held, &standing, &setting)
}

fn refusal(request: &BindRequest, held: &Held<Bindable>, existing: Option<&Binding>) -> OsbError {
    match judged(request, Some(held), existing, None) {
        Judgement::Answer(Err(error)) => error,
        other => panic!("no refusal: {other:?}"),
    }
}

fn accepted(request: &BindRequest, held: &Held<Bindable>, predecessor: Option<&Binding>) -> NewBinding {
    match judged(request, Some(held), None, predecessor) {
        Judgement::Accept(new) => new,
        other => panic!("not accepted: {other:?}"),
    }
}

/// OSB 2.17, "Binding", "Response": 201.
#[test]
fn an_instance_that_has_a_connection_is_bound_to() {
    let new = accepted(&request(), &held(shared()), None);
    assert_eq!((new.credentials, new.username), (credentials::of(&connection()), None));
    // It may be out of order for a moment: its address is the same.
    let mut unready = held(shared());
    unready.instance.ready = false;
    accepted(&request(), &unready, None);
}

/// OSB 2.17, "Asynchronous Operations" and "Error Codes": AsyncRequired.
#[test]
fn a_user_of_its_own_takes_a_platform_that_can_wait() {
    let error = refusal(&request(), &held(users()), None);
    assert_eq!(error.code(), Some(Code::AsyncRequired));
    let new = accepted(&patient(), &held(users()), None);
    assert_eq!(new.username.as_deref(), Some("b-new"));
    assert_eq!(
        new.credentials,
        credentials::of_user(users().connection.as_ref().unwrap(), &user())
    );
    assert_eq!(new.deadline, HOUR);
    // Where nothing is to be waited for, who can wait need not.
    assert_eq!(accepted(&patient(), &held(shared()), None).username, None);
}

/// The plan's revision that the instance runs from says it, whatever became of the plan.
#[test]
fn the_catalog_is_asked_only_where_the_ledger_kept_no_plan() {
    let with_users = plan(json!({ "spec": { "bindingCredentials": "perBinding" } }));
    let catalog = catalog(&[with_users]);
    for (opened, expected) in [
        (shared(), true),
        (users(), true),
        (
            Bindable {
                plan_spec: Some(json!({
                    "service": "s", "id": "p", "description": "d", "engine": { "type": "redis", "version": "7.1" },
                    "kubernetes": { "memory": "64Mi" },
                })),
                ..shared()
            },
            false,
        ),
    ] {
        assert_eq!(has_users(&held(opened), Some(&catalog)), expected);
    }
    assert!(!has_users(&held(shared()), None));
}

/// OSB 2.17, "Blocking Operations".
#[test]
fn what_is_busy_is_a_concurrency_error() {
    for opened in [shared, users] {
        let none = Bindable {
            connection: None,
            ..opened()
        };
        for held in [
            provisioning(none),
            updating(opened()),
            deprovisioning(opened()),
            undeleted(opened()),
        ] {
            assert_eq!(refusal(&patient(), &held, None).code(), Some(Code::Concurrency));
        }
    }
}

#[test]
fn what_failed_or_is_missing_says_why() {
    let error = refusal(&patient(), &failed(Bindable::default()), None);
    assert_eq!((error.status(), error.code()), (StatusCode::UNPROCESSABLE_ENTITY, None));
    assert!(error.description().contains("out of capacity"));
    let mut missing = held(users());
    missing.instance.reason = Some("Missing".to_owned());
    missing.instance.message = Some("deleted by somebody else".to_owned());
    let error = refusal(&patient(), &missing, None);
    assert!(
        error.description().contains("deleted by somebody else"),
        "{}",
        error.description()
    );
}

/// What was taken over as it stood may let everybody in. That is said at once: no user will ever be asked for.
#[test]
fn a_cache_that_asks_for_no_password_has_no_users() {
    let open = || Bindable {
        connection: Some(connection()),
        ..users()
    };
    for request in [request(), patient(), successor("old")] {
        let Judgement::Answer(Err(error)) = judged(&request, Some(&held(open())), None, Some(&existing_binding()))
        else {
            panic!("no refusal");
        };
        assert_eq!((error.status(), error.code()), (StatusCode::UNPROCESSABLE_ENTITY, None));
        assert!(
            error.description().contains("order a new instance"),
            "{}",
            error.description()
        );
    }
    // What goes on may change that.
    assert_eq!(
        refusal(&patient(), &updating(open()), None).code(),
        Some(Code::Concurrency)
    );
    // Where all share what is asked for, that is nothing.
    accepted(&request(), &held(shared()), None);
}

/// OSB 2.17, "Input Parameters Schema Object": what is sent fits what the catalog says, or is refused by name.
#[test]
fn what_is_sent_along_is_judged_by_the_plan() {
    let with = |properties: Value, required: Value| {
        let parameters = json!({ "properties": properties, "required": required });
        catalog(&[plan(json!({ "spec": { "bindingParameters": parameters } }))])
    };
    let closed = with(json!({ "team": { "type": "string" } }), json!(["team"]));
    let looser = with(json!({ "team": { "type": "string" } }), json!([]));
    let anything = catalog(&[plan(json!({}))]);
    let mut kept = held(shared());
    kept.opened.plan_spec = Some(serde_json::to_value(closed.plan_by_id("p").unwrap().spec.clone()).unwrap());
    let told = |sent: Value, held: &Held<Bindable>, catalog: Option<&Catalog>, existing: Option<&Binding>| {
        let setting = Setting {
            version: Version::V17,
            catalog,
            user: &user(),
            deadline: HOUR,
        };
        let request = BindRequest {
            parameters: members(sent),
            ..request()
        };
        let standing = Standing {
            existing: existing.cloned(),
            predecessor: None,
        };
        match judge(&request, Some(held), &standing, &setting) {
            Judgement::Accept(_) => "accepted".to_owned(),
            Judgement::Answer(Ok(answer)) => answer.status.as_u16().to_string(),
            Judgement::Answer(Err(error)) => format!("{} {}", error.status().as_u16(), error.description()),
        }
    };
    let resting = held(shared());
    for (sent, part) in [
        (json!({ "team": "a" }), "accepted"),
        (json!({ "team": 1 }), "400 parameter team: 1 is not of type"),
        (json!({}), "400 \"team\" is a required property"),
        (json!({ "team": "a", "colour": 1 }), "'colour' was unexpected"),
    ] {
        let said = told(sent.clone(), &resting, Some(&closed), None);
        assert!(said.contains(part), "{sent}: {said}");
        assert_eq!(told(sent, &resting, Some(&anything), None), "accepted");
    }
    // The catalog is what the platform knows; the revision is asked once the plan is gone.
    assert_eq!(told(json!({}), &kept, Some(&looser), None), "accepted");
    assert!(told(json!({}), &kept, None, None).starts_with("400"));
    // What stands is compared and not judged anew.
    assert_eq!(
        told(json!({}), &resting, Some(&closed), Some(&existing_binding())),
        "200"
    );
}

/// OSB 2.17, "Binding", "Request": the instance must have been provisioned.
#[test]
fn what_is_not_there_is_not_found() {
    let gone = tombstone(shared());
    for held in [None, Some(&gone)] {
        let Judgement::Answer(Err(error)) = judged(&request(), held, Some(&existing_binding()), None) else {
            panic!("no refusal");
        };
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
    }
}

/// OSB 2.17, "Binding", "Response": 200 for the same, 409 for another; both before the instance is looked at.
#[test]
fn a_binding_that_exists_is_compared_first() {
    let busy = updating(shared());
    let same = judged(&request(), Some(&busy), Some(&existing_binding()), None);
    assert_eq!(
        same,
        Judgement::Answer(Ok(bound(StatusCode::OK, &existing_binding().credentials, Version::V17)))
    );
    let other_plan = of_plan("q");
    assert_eq!(
        refusal(&other_plan, &busy, Some(&existing_binding())).status(),
        StatusCode::CONFLICT
    );
    assert_eq!(refusal(&other_plan, &busy, None).code(), Some(Code::Concurrency));
    let resting = held(users());
    assert_eq!(refusal(&other_plan, &resting, None).status(), StatusCode::BAD_REQUEST);
    for request in [
        BindRequest {
            app_guid: None,
            ..request()
        },
        BindRequest {
            parameters: members(json!({ "a": 1 })),
            ..request()
        },
        successor("other"),
    ] {
        for binding in [existing_binding(), binding_with_user(BindingState::Binding, true)] {
            assert_eq!(refusal(&request, &busy, Some(&binding)).status(), StatusCode::CONFLICT);
        }
    }
}

/// OSB 2.17, "Binding", "Response": a re-sent PUT is 202 with the same operation until the binding is made.
#[test]
fn a_binding_that_is_made_or_removed_is_waited_for() {
    let held = held(users());
    let making = binding_with_user(BindingState::Binding, true);
    assert_eq!(
        judged(&patient(), Some(&held), Some(&making), None),
        Judgement::Answer(Ok(Answer::accepted(operation_id())))
    );
    assert_eq!(
        refusal(&request(), &held, Some(&making)).code(),
        Some(Code::AsyncRequired)
    );
    for running in [true, false] {
        let removing = binding_with_user(BindingState::Unbinding, running);
        assert_eq!(
            refusal(&patient(), &held, Some(&removing)).code(),
            Some(Code::Concurrency)
        );
    }
}

/// OSB 2.17, "Binding Rotation".
#[test]
fn a_successor_has_what_its_predecessor_has_and_another_user() {
    let predecessor = Binding {
        parameters: members(json!({ "a": 1 })),
        context: members(json!({ "platform": "x" })),
        ..binding_with_user(BindingState::Bound, false)
    };
    let new = accepted(&successor("old"), &held(users()), Some(&predecessor));
    assert_eq!(
        (new.app_guid.as_deref(), &new.parameters, &new.context),
        (Some("app"), &predecessor.parameters, &predecessor.context)
    );
    assert_eq!(
        (
            new.service_id.as_str(),
            new.plan_id.as_str(),
            new.predecessor.as_ref().map(|id| id.as_str())
        ),
        (SERVICE, "p", Some("old"))
    );
    assert_eq!(new.username.as_deref(), Some("b-new"));
    // It may be for another application; and the same request is known when its predecessor is gone.
    let elsewhere = BindRequest {
        app_guid: Some("other".to_owned()),
        ..successor("old")
    };
    let new = accepted(&elsewhere, &held(users()), Some(&predecessor));
    assert_eq!(new.app_guid.as_deref(), Some("other"));
    let made = Binding {
        predecessor: Some("old".to_owned()),
        ..predecessor
    };
    assert_eq!(
        judged(&successor("old"), Some(&held(users())), Some(&made), None),
        Judgement::Answer(Ok(bound(StatusCode::OK, &made.credentials, Version::V17)))
    );
}

#[test]
fn only_what_holds_has_successors_and_shared_credentials_have_none() {
    let resting = held(users());
    for predecessor in [
        None,
        Some(binding_with_user(BindingState::Binding, true)),
        Some(binding_with_user(BindingState::Unbinding, true)),
    ] {
        let Judgement::Answer(Err(error)) = judged(&successor("old"), Some(&resting), None, predecessor.as_ref())
        else {
            panic!("no refusal");
        };
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }
    let Judgement::Answer(Err(error)) = judged(
        &successor("old"),
        Some(&held(shared())),
        None,
        Some(&existing_binding()),
    ) else {
        panic!("no refusal");
    };
    assert_eq!((error.status(), error.code()), (StatusCode::UNPROCESSABLE_ENTITY, None));
    // One of before the plan gave out users is succeeded by one that has its own.
    accepted(&successor("old"), &resting, Some(&existing_binding()));
}

/// OSB 2.17, "Changes": endpoints came with 2.15.
#[test]
fn endpoints_are_told_from_2_15_on() {
    let answer = |version| bound(StatusCode::CREATED, &existing_binding().credentials, version).body;
    assert_eq!(answer(Version::V14).get("endpoints"), None);
    assert_eq!(
        answer(Version::V15)["endpoints"],
        json!([{ "host": "cache.example", "ports": ["11211"], "protocol": "tcp" }])
    );
}

/// OSB 2.17, "Fetching a Service Binding": 404 while a binding operation is in progress.
#[test]
fn a_binding_is_fetched_as_it_was_made_and_only_while_it_holds() {
    for binding in [
        None,
        Some(binding_with_user(BindingState::Binding, true)),
        Some(binding_with_user(BindingState::Unbinding, true)),
        Some(binding_with_user(BindingState::Unbinding, false)),
    ] {
        let error = fetched(binding.as_ref(), Version::V17).unwrap_err();
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
    }
    let body = fetched(Some(&existing_binding()), Version::V17).unwrap().body;
    assert_eq!(body["credentials"]["MEMCACHED_URL"], json!("cache.example:11211"));
    assert_eq!(body.get("parameters"), None);
}
