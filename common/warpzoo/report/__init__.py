"""What a person looks at: pictures of a registration and the page that holds them. Results come in, files go out."""
