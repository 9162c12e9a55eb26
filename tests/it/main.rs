//! Integration tests.

mod api;
mod api_accounts;
mod api_certificates;
mod api_configuration;
mod api_house;
mod api_mail;
mod api_sessions;
mod appliance;
mod dialogs;
mod dialogs_tcp;
mod filters;
mod mailbox_stores;
mod openapi;
mod shape;
mod way_of_a_message;
