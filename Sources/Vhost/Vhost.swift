// Vhost
