//! Integration tests.

mod api;
mod api_certificates;
mod api_configuration;
mod api_house;
mod api_mail;
mod api_sessions;
mod appliance;
mod dialogs;
mod dialogs_tcp;
mod openapi;
mod shape;
mod way_of_a_message;
