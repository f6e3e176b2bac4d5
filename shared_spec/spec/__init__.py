"""What a user says: the fields of a ResNet, and files of them."""
