//! The rows of `services` as a file for `SERVICES_FILE`.

use serde_json::{Map, json};

use super::old::OldService;
use super::plans::plain;
use crate::osb::{Service, Services};

/// A row as a service of the file.
///
/// # Errors
/// Why it cannot be one, and what to do.
pub fn service(row: &OldService) -> Result<Service, String> {
    let id = row
        .id
        .parse()
        .map_err(|error| format!("its id {error}: correct it in the old database"))?;
    let text = |text: &String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let mut metadata = Map::new();
    // What readers of the old catalog look for.
    if let Some(name) = text(&row.human_name) {
        metadata.insert("name".to_owned(), json!(name));
    }
    if let Some(image) = text(&row.image) {
        metadata.insert("image".to_owned(), json!(image));
    }
    let state = match row {
        OldService { deleted: true, .. } => Some("withdrawn"),
        OldService { deprecated: true, .. } => Some("deprecated"),
        OldService { beta: true, .. } => Some("beta"),
        _ => None,
    };
    if let Some(state) = state {
        metadata.insert("state".to_owned(), json!(state));
    }
    let tags = row.categories.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    Ok(Service {
        id,
        name: plain(&row.name, false),
        description: text(&row.description)
            .or_else(|| text(&row.human_name))
            .unwrap_or_else(|| row.name.clone()),
        tags: tags.map(str::to_owned).collect(),
        display_name: text(&row.human_name),
        long_description: None,
        image: text(&row.image),
        provider_display_name: None,
        documentation_url: None,
        support_url: None,
        shareable: None,
        metadata,
    })
}

/// The file of some services.
///
/// # Errors
/// When it cannot be written.
pub fn file(services: Vec<Service>) -> Result<String, String> {
    let text = serde_yaml::to_string(&Services { services }).map_err(|error| error.to_string())?;
    // What is written must be readable.
    Services::parse(&text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_its_id_name_tags_and_picture() {
        let row = OldService {
            id: "0a8d668d-2971-4533-8e38-a816a7c01bec".to_owned(),
            name: "akkeris-redis".to_owned(),
            human_name: "Akkeris Redis".to_owned(),
            description: "Redis for all.".to_owned(),
            categories: "Data Stores, Redis,".to_owned(),
            image: "data:image/png;base64,AA==".to_owned(),
            deprecated: true,
            ..OldService::default()
        };
        let text = file(vec![service(&row).unwrap()]).unwrap();
        let read = Services::parse(&text).unwrap().services.remove(0);
        assert_eq!(
            (read.id.as_str(), read.name.as_str()),
            (row.id.as_str(), "akkeris-redis")
        );
        assert_eq!(read.tags, ["Data Stores", "Redis"]);
        assert_eq!(read.image.as_deref(), Some("data:image/png;base64,AA=="));
        assert_eq!(read.metadata["name"], "Akkeris Redis");
        assert_eq!(read.metadata["state"], "deprecated");
    }

    #[test]
    fn a_row_with_hardly_anything_is_a_service_all_the_same() {
        let row = OldService {
            id: "a".to_owned(),
            name: "My_Redis".to_owned(),
            ..OldService::default()
        };
        let service = service(&row).unwrap();
        assert_eq!(
            (service.name.as_str(), service.description.as_str()),
            ("my-redis", "My_Redis")
        );
        assert!(file(vec![service]).is_ok());
        assert!(super::service(&OldService::default()).is_err());
    }
}
