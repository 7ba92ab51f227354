//! `cache-broker webhooks`: what is waiting or was given up, and giving it another day.

use crate::ledger::{InstanceId, Ledger, LetterState, Letters};

/// Prints webhooks, one a line.
///
/// # Errors
/// When Postgres does not answer or refuses.
pub async fn list(ledger: &Ledger, states: &[LetterState], instance: Option<&InstanceId>) -> Result<(), String> {
    let letters = ledger
        .letters(states, instance)
        .await
        .map_err(|error| error.to_string())?;
    for letter in &letters {
        println!("{letter}");
    }
    if letters.is_empty() {
        let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        eprintln!("no webhook is {}", states.join(" or "));
    }
    Ok(())
}

/// Has webhooks that were given up delivered anew by the processes that serve.
///
/// # Errors
/// When Postgres does not answer or refuses, or there are none.
pub async fn retry(ledger: &Ledger, which: &Letters) -> Result<(), String> {
    match ledger.retry_letters(which).await.map_err(|error| error.to_string())? {
        0 => Err(match which {
            Letters::All => "no webhook was given up".to_owned(),
            Letters::Of(instance) => format!("no webhook of instance {instance} was given up"),
            Letters::One(id) => format!("no webhook {id} was given up: see `cache-broker webhooks list`"),
        }),
        again => {
            println!("{again} to be delivered again");
            Ok(())
        }
    }
}
