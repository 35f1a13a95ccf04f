"""An example of a plug-in package. Importing it does nothing: fusec loads each module when its name is first used."""
