"""The controllers: one noun a file, all of one shape (`navarch.client.controller.Controller`)."""
