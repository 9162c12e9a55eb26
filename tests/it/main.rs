//! Integration tests.

mod api;
mod api_accounts;
mod api_certificates;
mod api_configuration;
mod api_directory;
mod api_house;
mod api_mail;
mod api_sessions;
mod appliance;
mod dialogs;
mod dialogs_tcp;
mod directory;
mod explain;
mod filters;
mod lettre_client;
mod mailbox_stores;
mod name_server;
mod next_hosts;
mod openapi;
mod outgoing_content;
mod scale;
mod scripted_hop;
mod secure_hops;
mod shape;
mod virtual_servers;
mod way_of_a_message;
