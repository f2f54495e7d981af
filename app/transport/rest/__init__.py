"""The admin API's edge: the route table, authentication, problem details, pages and entity tags."""
