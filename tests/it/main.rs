//! Integration tests.

mod api;
mod api_configuration;
mod api_directory;
mod api_house;
mod api_mail;
mod appliance;
mod dialogs;
mod dialogs_tcp;
mod directory;
mod openapi;
mod scale;
mod shape;
mod way_of_a_message;
